"""Strict reading of a JSON object somebody else wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from neuron_artifacts.errors import ModelFormatError


@dataclass(frozen=True)
class Fields:
    """The members of one JSON object; ``where`` names it in messages.

    Every reader takes the default where the member is absent or ``null``, and raises
    :class:`ModelFormatError` with the member's name and value where it is not what was promised.
    """

    raw: Mapping[str, Any]
    where: str

    def given(self, name: str) -> bool:
        """Whether the member says something: neither absent nor ``null`` nor an empty object."""
        return self.raw.get(name) not in (None, {})

    def text(self, name: str, default: str) -> str:
        value = self.raw.get(name)
        if value is None:
            return default
        return value if isinstance(value, str) else self.reject(name, "text")

    def boolean(self, name: str, default: bool) -> bool:
        value = self.raw.get(name)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.reject(name, "true or false")

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.optional_integer(name, default, low, high)
        return default if value is None else value

    def optional_integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.reject(name, f"a whole number from {low} to {high}")
        return value

    def real(self, name: str, default: float, low: float, high: float) -> float:
        value = self.optional_real(name, low, high)
        return default if value is None else value

    def required_real(self, name: str, low: float, high: float) -> float:
        value = self.optional_real(name, low, high)
        return self.reject(name, f"a number from {low:g} to {high:g}") if value is None else value

    def optional_real(self, name: str, low: float, high: float) -> float | None:
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.reject(name, f"a number from {low:g} to {high:g}")
        if not low <= value <= high:  # nor NaN, which compares false
            self.reject(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def section(self, name: str) -> Fields:
        """A nested object; empty where absent."""
        value = self.raw.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            self.reject(name, "an object")
        return Fields(value, f"{self.where}: {name}")

    def reject(self, name: str, expected: str) -> NoReturn:
        shown = repr(self.raw.get(name))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ModelFormatError(f"{self.where}: {name} must be {expected}, got {shown}")
