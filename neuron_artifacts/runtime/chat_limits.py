"""What a chat template may use up while it renders, and what single operations may build.

A few characters of template can ask for any amount of work: loops in loops, macros that call
themselves, text that doubles, lists that hold each other. Every loop step and call is counted,
every value that is made is charged for, and an operation whose result is larger than its operands
is refused before it runs where the result would be too large.
"""

from __future__ import annotations

import contextvars
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import jinja2

MAX_STEPS = 1_000_000
"""Rounds of loops, and calls."""

MAX_WEIGHT = 1 << 24
"""Of one value: characters of text, eight for each entry of a list."""

MAX_MADE = 1 << 28
"""Of all values made while rendering, most of which are gone before the last is made."""

_MAX_WIDTH = 4096
_MAX_BITS = 1 << 16
_ENTRY = 8
_FAR = r"\d{5,}"
_PERCENT_WIDTH = re.compile(rf"%(?:\([^()%]*\))?[-+ #0]*\d*\.?(?:{_FAR}|\*)")
_BRACE_FIELD = re.compile(r"\{([^{}]*)(\{?)")

T = TypeVar("T")


class LimitExceeded(jinja2.TemplateError):
    """A template asks for more work than a prompt can need."""


@dataclass
class Allowance:
    """What is left to one rendering; ``deadline`` is of the monotonic clock."""

    deadline: float
    steps: int = MAX_STEPS
    made: int = MAX_MADE

    def step(self) -> None:
        self.steps -= 1
        check(self.steps >= 0, "its loops run too often")
        check(time.monotonic() <= self.deadline, "it runs longer than is allowed")

    def charge(self, weight: int) -> None:
        check(weight <= MAX_WEIGHT, "it makes a value that is too large")
        self.made -= weight
        check(self.made >= 0, "it makes more text than is allowed")


_allowance: contextvars.ContextVar[Allowance] = contextvars.ContextVar("allowance")
grant = _allowance.set


def check(allowed: bool, reason: str) -> None:
    if not allowed:
        raise LimitExceeded(reason)


def step() -> None:
    """Count one round of a loop, or one call. While a template is compiled there is nothing to
    count with: the LookupError then leaves the expression to be evaluated when it renders."""
    _allowance.get().step()


def charge(value: T) -> T:
    """Account for a value that was made."""
    _allowance.get().charge(_weight(value))
    return value


def reserve(weight: int) -> None:
    """Refuse what would be too large before it is made."""
    left = min(MAX_WEIGHT, _allowance.get().made)
    check(weight <= left, "it repeats text too often")


class Counted:
    """An iterable whose every item is a step; it has a length where the original has one."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            step()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # a TypeError, as without this class


def spelled(value: Any) -> int:
    """How long a value is as text, about; what it holds twice counts twice.

    Raises
    ------
    LimitExceeded
        Too long. Lists that hold each other would take forever to print, hash or compare.
    """
    if value is None or isinstance(value, (str, int, float)):
        return _weight(value)
    total, waiting = 0, [value]
    while waiting:
        node = waiting.pop()
        total += _weight(node) + 1
        check(total <= MAX_WEIGHT, "it makes a value that is too large")
        if isinstance(node, Mapping):
            waiting += chain.from_iterable(node.items())
        elif isinstance(node, (list, tuple, set, frozenset)):
            waiting += node
    return total


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Before ``left operator right``."""
    if operator == "%" and isinstance(left, str):
        check_format(left, right)
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if hasattr(many, "__len__") and isinstance(times, int):
                reserve(_weight(many) * max(times, 0))
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**":
        check(abs(right) <= _MAX_WIDTH, "it raises to too high a power")
        _check_bits(left.bit_length() * int(right) if isinstance(left, int) else 0)
    elif operator == "+":
        reserve(_weight(left) + _weight(right))


def _check_bits(bits: int) -> None:
    # The time of a product grows faster than its size.
    check(bits <= _MAX_BITS, "it computes with too large a number")


def check_format(pattern: str, values: Any) -> None:
    """Before ``%`` and ``str.format``: no width beyond reason, no value spelled too often."""
    check(not _pads_far(pattern), "it pads text too far")
    fields = pattern.count("%") + pattern.count("{")
    reserve(len(pattern) + fields * (spelled(values) + _MAX_WIDTH))


def _pads_far(pattern: str) -> bool:
    if _PERCENT_WIDTH.search(pattern):
        return True
    fields = _BRACE_FIELD.findall(pattern.replace("{{", "").replace("}}", ""))
    forms = [(field.partition(":")[2], nested) for field, nested in fields if ":" in field]
    return any(nested or re.search(_FAR, form) for form, nested in forms)


def check_method(owner: Any, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Before a method of text, or the filter of the same name."""
    if name in ("format", "format_map"):
        check_format(str(owner), (args, dict(options)))
    elif name == "join" and args and isinstance(args[0], (list, tuple)):
        check_joined(args[0], owner)
    elif name == "replace" and len(args) >= 2:
        old, new = args[:2]
        times = owner.count(old) if isinstance(owner, str) and isinstance(old, str) else 1
        reserve(spelled(owner) + times * spelled(new))
    elif name in _PADDING:
        widths = [n for n in (*args, *options.values()) if isinstance(n, int)]
        check(all(abs(n) <= _MAX_WIDTH for n in widths), "it pads text too far")
        reserve(spelled(owner) * (1 + max(map(abs, widths), default=_ENTRY)))
    elif name in _FORBIDDEN:
        raise LimitExceeded(f"{name} takes too long on some texts")


def check_joined(parts: Sequence[Any], separator: Any = "") -> None:
    """Before parts are put together to one text."""
    reserve(sum(map(spelled, parts)) + spelled(separator) * len(parts))


def _weight(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 8 + 1
    return len(value) * _ENTRY if isinstance(value, (list, tuple, dict, set, frozenset)) else 1


_PADDING = frozenset({
    "batch", "center", "expandtabs", "indent", "ljust", "rjust", "round", "slice", "tojson",
    "zfill",
})  # fmt: skip
_FORBIDDEN = frozenset({"striptags", "translate", "encode"})
