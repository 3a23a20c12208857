"""Interpreters that have the Neuron libraries: which there are, and what each can run."""

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
