"""Interpreters that have the Neuron libraries: which there are, and what each can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuron_artifacts._lazy import importing

if TYPE_CHECKING:
    from neuron_artifacts.toolchain.discovery import (
        Survey,
        Unusable,
        choose_toolchain,
        find_toolchains,
        survey_toolchains,
    )
    from neuron_artifacts.toolchain.machine import Device, Machine, read_machine
    from neuron_artifacts.toolchain.types import Toolchain

__all__ = [
    "Device",
    "Machine",
    "Survey",
    "Toolchain",
    "Unusable",
    "choose_toolchain",
    "find_toolchains",
    "read_machine",
    "survey_toolchains",
]

_HOMES = {
    "Survey": "discovery", "Unusable": "discovery", "choose_toolchain": "discovery",
    "find_toolchains": "discovery", "survey_toolchains": "discovery",
    "Device": "machine", "Machine": "machine", "read_machine": "machine", "Toolchain": "types",
}  # fmt: skip

# Looking for an interpreter with optimum-neuron needs none of these.
__getattr__ = importing(__name__, _HOMES)
