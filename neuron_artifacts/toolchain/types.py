"""What is known of an interpreter and of the machine it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts.toolchain.generations import KEY_PACKAGES, sdk_of_compiler
from neuron_artifacts.toolchain.machine import Device


@dataclass(frozen=True)
class Toolchain:
    """An interpreter that answered.

    ``python`` is absolute, and a symlink in a virtual environment is kept: it is what makes the
    environment one. ``packages`` holds normalised names with the versions of what is really
    there, ``placeholders`` those of AWS's empty packages on PyPI. ``platform`` is the family of
    the host's device, ``None`` on a host without one. ``origin`` says why it was looked at.
    """

    python: Path
    python_version: str
    packages: Mapping[str, str]
    placeholders: Mapping[str, str]
    devices: tuple[Device, ...]
    platform: str | None
    generations: tuple[str, ...]
    origin: str = ""

    @property
    def sdk(self) -> str | None:
        """The Neuron SDK release its compiler belongs to (``2.29``), where that is known."""
        return sdk_of_compiler(self.packages.get("neuronx-cc", ""))

    def document(self, backend: str) -> dict[str, str]:
        """The versions that are part of a key of ``backend``: whatever can change a graph."""
        return {n: self.packages[n] for n in KEY_PACKAGES[backend] if n in self.packages}
