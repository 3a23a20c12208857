"""The Neuron devices of this machine, as ``neuron-ls`` and the system list them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts.toolchain.platforms import CHIPS, TARGETS
from neuron_artifacts.toolchain.processes import read_output

NEURON_LS_SECONDS = 20.0
TOOLS = "opt/aws/neuron/bin"
RUNTIME = "opt/aws/neuron/lib"
"""Where ``aws-neuronx-tools`` and ``aws-neuronx-runtime-lib`` install themselves."""


@dataclass(frozen=True)
class Device:
    """One Neuron chip. ``cores`` counts logical cores; ``memory`` is in bytes."""

    index: int
    cores: int
    logical_nc_config: int
    memory: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What this host is: its devices, their family, and the runtime that drives them.

    ``platform`` is ``inf2``, ``trn1``, ``trn2`` or ``trn3`` where there is a device, ``instance``
    the EC2 name where the system tells it. ``problem`` says why devices could not be listed.
    """

    devices: tuple[Device, ...] = ()
    platform: str | None = None
    instance: str | None = None
    runtime: str | None = None
    problem: str | None = None


def read_machine(environ: Mapping[str, str], *, root: Path = Path("/")) -> Machine:
    """Ask ``neuron-ls``, then the system. Never raises: a machine without Neuron is a fact too."""
    devices, problem = _list_devices(environ, root)
    present = bool(devices) or any((root / "dev").glob("neuron[0-9]*"))
    instance = _read_instance(root) if present else None
    platform = platform_of(instance, devices) if present else None
    if present and not problem and platform is None:
        problem = "there is a Neuron device of a family that is not known here"
    return Machine(devices, platform, instance, _read_runtime(root), problem)


def parse_devices(text: str) -> tuple[Device, ...]:
    """Read ``neuron-ls -j``.

    Format: ``tools/neuron-sys-tools/neuron-ls.rst`` of aws-neuron-sdk: a list with one object a
    device. ``nc_count`` counts the logical cores that ``neuroncore_ids`` lists; tools older than
    Trainium2 write neither those ids nor ``logical_neuroncore_config``.

    Raises
    ------
    ValueError
        The text is something else.
    """
    listed = json.loads(text)
    if not isinstance(listed, list):
        raise ValueError("not a list of devices")
    try:
        return tuple(_device(entry) for entry in listed)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a device lacks or misspells {error}") from error


def platform_of(instance: str | None, devices: tuple[Device, ...]) -> str | None:
    """The family of a device: by the instance's name, else by the memory of a chip.

    Inferentia2 and the first Trainium have the same memory and run the same graphs: by memory
    alone they are ``trn1``.
    """
    family = re.match(r"[a-z]+\d+", (instance or "").lower())
    if family and family[0] in TARGETS:
        return family[0]
    sizes = {chip.memory: hardware for hardware, chip in CHIPS.items()}
    return sizes.get(devices[0].memory) if devices else None


def _list_devices(environ: Mapping[str, str], root: Path) -> tuple[tuple[Device, ...], str | None]:
    program = shutil.which("neuron-ls", path=environ.get("PATH", "")) or shutil.which(
        "neuron-ls", path=str(root / TOOLS)
    )
    if program is None:
        return (), None
    try:
        return parse_devices(read_output([program, "-j"], environ, NEURON_LS_SECONDS)), None
    except (OSError, ValueError, RecursionError) as error:
        return (), f"{program} -j: {error}"


def _device(entry: Mapping[str, Any]) -> Device:
    ids = entry.get("neuroncore_ids")
    cores = len(ids) if isinstance(ids, list) else int(entry["nc_count"])
    return Device(
        index=int(entry["neuron_device"]),
        cores=cores,
        logical_nc_config=int(entry.get("logical_neuroncore_config") or 1),
        memory=int(entry["memory_size"]),
        pids=tuple(int(process["pid"]) for process in entry.get("neuron_processes") or ()),
    )


def _read_instance(root: Path) -> str | None:
    """EC2 writes the instance type into DMI; the driver knows the family even in a container.

    Sources: ``optimum/neuron/utils/system.py`` of optimum-neuron;
    ``tools/neuron-sys-tools/neuron-sysfs-user-guide.rst`` of aws-neuron-sdk.
    """
    places = (
        "sys/devices/virtual/dmi/id/product_name",
        "sys/devices/virtual/neuron_device/neuron0/info/architecture/instance_type",
    )
    for place in places:
        try:
            name = (root / place).read_text(encoding="ascii").strip().lower()
        except (OSError, ValueError):
            continue
        if re.match(r"(inf|trn)\d", name):
            return name
    return None


def _read_runtime(root: Path) -> str | None:
    """The version in the name of the runtime library, ``libnrt.so.<version>``."""
    for library in sorted((root / RUNTIME).glob("libnrt.so.*.*"), reverse=True):
        version = library.name.removeprefix("libnrt.so.")
        if re.fullmatch(r"\d+(\.\d+)+", version):
            return version
    return None
