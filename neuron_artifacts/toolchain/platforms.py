"""Neuron devices to compile for: their cores and memory, and which one a request means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuron_artifacts.errors import RefusedError, SpecError

if TYPE_CHECKING:
    from neuron_artifacts.toolchain.types import Toolchain

GIB = 1 << 30

TARGET_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"
LNC_VARIABLE = "NEURON_LOGICAL_NC_CONFIG"

HARDWARE = {"inf2": "trn1", "trn1": "trn1", "trn1n": "trn1", "trn2": "trn2", "trn3": "trn3"}
"""Targets by name, with the hardware each means. Source: ``hardware`` in
``src/neuronx_distributed/utils/utils.py`` of neuronx-distributed."""

TARGETS = tuple(HARDWARE)


@dataclass(frozen=True)
class Chip:
    """One device: physical cores, bytes of HBM, and how many cores make a logical one."""

    cores: int
    memory: int
    logical_nc_configs: tuple[int, ...]
    default_logical_nc_config: int


CHIPS = {
    "trn1": Chip(2, 32 * GIB, (1,), 1),
    "trn2": Chip(8, 96 * GIB, (1, 2), 2),
    "trn3": Chip(8, 144 * GIB, (1, 2), 2),
}
"""By hardware. Sources: ``about-neuron/arch/neuron-hardware/{inf2,trn1,trn2,trn3}-arch.rst`` and
``about-neuron/arch/neuron-features/logical-neuroncore-config.rst`` of aws-neuron-sdk."""


@dataclass(frozen=True)
class Instance:
    """A machine one can rent: chips and GiB of memory of a host, and how many hosts it is."""

    name: str
    target: str
    chips: int
    host_gib: int
    hosts: int = 1

    @property
    def host_memory(self) -> int:
        """Bytes of memory of one host."""
        return self.host_gib * GIB

    def logical_cores(self, logical_nc_config: int) -> int:
        """Cores that a model can be spread over on one host."""
        return self.chips * chip_of(self.target).cores // logical_nc_config


INSTANCES = {
    instance.name: instance
    for instance in (
        Instance("inf2.xlarge", "inf2", 1, 16),
        Instance("inf2.8xlarge", "inf2", 1, 128),
        Instance("inf2.24xlarge", "inf2", 6, 384),
        Instance("inf2.48xlarge", "inf2", 12, 768),
        Instance("trn1.2xlarge", "trn1", 1, 32),
        Instance("trn1.32xlarge", "trn1", 16, 512),
        Instance("trn1n.32xlarge", "trn1n", 16, 512),
        Instance("trn2.48xlarge", "trn2", 16, 2048),
        Instance("trn2u.48xlarge", "trn2", 16, 2048),
        Instance("trn2-ultraserver", "trn2", 16, 2048, hosts=4),
        Instance("trn3-ultraserver-gen1", "trn3", 16, 2048, hosts=4),
        Instance("trn3-ultraserver-gen2", "trn3", 4, 768, hosts=36),
    )
}
"""By name. UltraServers have no instance type of their own. Sources: as for :data:`CHIPS`."""


@dataclass(frozen=True)
class Platform:
    """What is compiled for. ``environ`` makes the libraries agree, on any host."""

    target: str
    logical_nc_config: int
    environ: Mapping[str, str]

    @property
    def hbm_per_core(self) -> int:
        """Bytes of HBM that one logical core can count on."""
        return hbm_per_core(self.target, self.logical_nc_config)


def hardware_of(target: str) -> str:
    """The hardware a target means: graphs for one run on every target of the same hardware.

    Raises
    ------
    SpecError
        There is no such target.
    """
    if target not in HARDWARE:
        raise SpecError(
            f"target {target!r} is no Neuron device",
            hint=f"choose {', '.join(('native', *TARGETS))}",
        )
    return HARDWARE[target]


def chip_of(target: str) -> Chip:
    return CHIPS[hardware_of(target)]


def hbm_per_core(target: str, logical_nc_config: int) -> int:
    """Bytes of HBM per logical core: on Trainium2 with LNC 1, half of a bank that two share."""
    chip = chip_of(target)
    return chip.memory * logical_nc_config // chip.cores


def instances_of(target: str) -> tuple[Instance, ...]:
    """The machines that run graphs for ``target``, smallest first."""
    hardware = hardware_of(target)
    fitting = [i for i in INSTANCES.values() if HARDWARE[i.target] == hardware]
    return tuple(sorted(fitting, key=lambda i: (i.chips * i.hosts, i.host_gib)))


def resolve_platform(
    asked: str,
    toolchain: Toolchain | None,
    environ: Mapping[str, str],
    *,
    logical_nc_config: int | None = None,
) -> Platform:
    """The device that ``asked`` means here; ``native`` is what the libraries would find.

    They ask :data:`TARGET_VARIABLE` first, then the device. The logical core configuration is
    the argument's, :data:`LNC_VARIABLE`'s, the device's, or the hardware's default, in this
    order; none may contradict another. The result's ``environ`` fixes both, so that a host
    without a device compiles what the device's own host would.

    Raises
    ------
    SpecError
        A target, or a logical core configuration, that does not exist.
    RefusedError
        ``native`` on a host without a device, or a contradiction.
    """
    device = toolchain.platform if toolchain else None
    override = environ.get(TARGET_VARIABLE, "")
    if override:
        hardware_of(override)
    target = _choose_target(asked, override, device)
    lnc = _choose_lnc(target, logical_nc_config, toolchain, environ)
    return Platform(target, lnc, {TARGET_VARIABLE: target, LNC_VARIABLE: str(lnc)})


def _choose_target(asked: str, override: str, device: str | None) -> str:
    if asked == "native":
        if override or device:
            return override or str(device)
        raise RefusedError(
            "this host has no Neuron device, so the one to compile for must be named",
            hint=f"add --target {'|'.join(TARGETS)}, or set {TARGET_VARIABLE}",
        )
    hardware = hardware_of(asked)
    if override and override != asked:
        raise RefusedError(
            f"--target {asked} contradicts {TARGET_VARIABLE}={override}, which the libraries "
            "would follow",
            hint=f"drop one of them, or set {TARGET_VARIABLE}={asked}",
        )
    if device and not override and HARDWARE[device] != hardware:
        raise RefusedError(
            f"--target {asked} contradicts this host's device, which is {device}",
            hint=f"compile on a host without a device, or set {TARGET_VARIABLE}={asked} as well "
            "if the artifact is for another machine",
        )
    return asked


def _choose_lnc(
    target: str, asked: int | None, toolchain: Toolchain | None, environ: Mapping[str, str]
) -> int:
    chip = chip_of(target)
    variable = _read_lnc(environ)
    if asked is not None and variable is not None and asked != variable:
        raise RefusedError(
            f"logical_nc_config {asked} contradicts {LNC_VARIABLE}={variable}, which wins there",
            hint=f"drop one of them, or set {LNC_VARIABLE}={asked}",
        )
    chosen = variable if asked is None else asked
    if chosen is None:
        return _device_lnc(target, toolchain) or chip.default_logical_nc_config
    if chosen not in chip.logical_nc_configs:
        raise SpecError(
            f"{target} has no logical core configuration {chosen}",
            hint=f"choose {' or '.join(map(str, chip.logical_nc_configs))}",
        )
    return chosen


def _device_lnc(target: str, toolchain: Toolchain | None) -> int | None:
    """How the host's own device is set up, where that is what is compiled for."""
    if toolchain is None or toolchain.platform is None or not toolchain.devices:
        return None
    configured = toolchain.devices[0].logical_nc_config
    same = HARDWARE[toolchain.platform] == hardware_of(target)
    return configured if same and configured in chip_of(target).logical_nc_configs else None


def _read_lnc(environ: Mapping[str, str]) -> int | None:
    text = environ.get(LNC_VARIABLE, "")
    try:
        value = int(text or -1)  # NxD Inference reads -1 as not set
    except ValueError:
        raise SpecError(
            f"{LNC_VARIABLE}={text!r} is not a whole number", hint="set it to 1 or 2, or unset it"
        ) from None
    return None if value == -1 else value
