"""Would a Neuron directory run on a given device, with given libraries? Decided from facts alone.

A field is judged only where both sides are known: the target of a directory without a manifest is
usually not, and its logical core configuration then has to tell the hardware.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.artifact.findings import Finding
from neuron_artifacts.artifact.manifest import UNKNOWN
from neuron_artifacts.artifact.neff import MAX_MAJOR
from neuron_artifacts.artifact.neuron_directory import NeuronDirectory
from neuron_artifacts.artifact.neuron_weights import read_ranks
from neuron_artifacts.backends.nxdi.levels import (
    TRANSFORMERS,
    SdkLevel,
    level_of_release,
    read_table,
)
from neuron_artifacts.errors import ToolchainError
from neuron_artifacts.toolchain import Toolchain, survey_toolchains
from neuron_artifacts.toolchain.generations import missing_packages
from neuron_artifacts.toolchain.platforms import (
    HARDWARE,
    INSTANCES,
    LNC_VARIABLE,
    chip_of,
    hardware_of,
    instances_of,
    resolve_platform,
)

_RELEASE = "neuronx-distributed-inference"
_SAVED_VERSIONS = {"neuronxcc_version": "neuronx-cc", "optimum_neuron_version": "optimum-neuron"}
"""Versions that optimum-neuron writes into ``neuron_config.json`` itself."""


@dataclass(frozen=True)
class NeuronHost:
    """What a directory is judged against; ``None`` where it is not known.

    ``cores`` counts the logical cores of one host. ``is_lnc_fixed`` says that its logical core
    configuration is a fact of this machine, not the hardware's default. ``python`` is the
    interpreter that ``packages`` are of, empty where none was named.
    """

    target: str | None = None
    logical_nc_config: int | None = None
    cores: int | None = None
    is_lnc_fixed: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)
    python: str = ""


def make_host(
    target: str | None, toolchain: Toolchain | None, environ: Mapping[str, str]
) -> NeuronHost:
    """The host that a target (or a machine's name, ``trn1.2xlarge``) and an interpreter make.

    Without a target it is this machine, as far as it has a device.

    Raises
    ------
    SpecError, RefusedError
        No such target, or one that contradicts the environment.
    """
    packages = dict(toolchain.packages) if toolchain else {}
    python = str(toolchain.python) if toolchain else ""
    devices = toolchain.devices if toolchain and target is None else ()
    if target is None and not (toolchain and toolchain.platform):
        return NeuronHost(packages=packages, python=python)
    instance = INSTANCES.get(target or "")
    named = instance.target if instance else target
    platform = resolve_platform(named or "native", None if target else toolchain, environ)
    lnc = platform.logical_nc_config
    if devices:
        cores = sum(device.cores for device in devices)
    else:
        machine = instance or instances_of(platform.target)[-1]
        cores = machine.logical_cores(lnc)
    fixed = bool(devices) or bool(environ.get(LNC_VARIABLE))
    return NeuronHost(platform.target, lnc, cores, fixed, packages, python)


def named_toolchain(python: str, environ: Mapping[str, str]) -> Toolchain:
    """The libraries of one interpreter.

    Raises
    ------
    ToolchainError
        It is not there, or does not answer.
    """
    survey = survey_toolchains(environ, python=python)
    for toolchain in survey.toolchains:
        if toolchain.python == survey.named:
            return toolchain
    reasons = [entry.reason for entry in survey.unusable if entry.named]
    raise ToolchainError(f"{python} does not work: {'; '.join(reasons) or 'it gave no answer'}")


def judge(
    contents: NeuronDirectory, manifest: Manifest | None, host: NeuronHost
) -> Iterator[Finding]:
    """What keeps a whole directory from running there, and what would make it run better."""
    yield from _judge_neffs(contents)
    target = _target_of(contents, manifest)
    if target and host.target and HARDWARE.get(target) != hardware_of(host.target):
        yield _misfit("target", f"it was compiled for {target}, and not for {host.target}")
    else:
        yield from _judge_cores(contents, target, host)
    if host.python:
        yield from _judge_packages(contents, manifest, host)


def level_of_fields(fields: Mapping[str, Any]) -> SdkLevel | None:
    """The SDK level whose NeuronConfig has exactly these fields, where only one does."""
    found = [
        name
        for name in TRANSFORMERS
        if set(fields) in _field_sets(read_table(f"neuron-config-{name}"))
    ]
    return SdkLevel(found[0], TRANSFORMERS[found[0]]) if len(found) == 1 else None


def _field_sets(table: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    return set(table["neuron"]), {*table["neuron"], *table["moe"]}


def _judge_neffs(contents: NeuronDirectory) -> Iterator[Finding]:
    newest = max((n.neff.header.major for _, n in contents.all_neffs), default=0)
    if newest > MAX_MAJOR:
        what = f"its NEFFs have version {newest}, and runtimes accept up to {MAX_MAJOR}"
        yield _misfit("neff_version_major", what)


def _judge_cores(
    contents: NeuronDirectory, target: str | None, host: NeuronHost
) -> Iterator[Finding]:
    lnc = _lnc_of(contents, target)
    if lnc is not None and host.logical_nc_config is not None and lnc != host.logical_nc_config:
        here = f"{host.target} has {host.logical_nc_config}"
        what = f"it was compiled for {lnc} physical cores per logical one, and {here}"
        possible = target and host.target and lnc in chip_of(host.target).logical_nc_configs
        if not possible or host.is_lnc_fixed:
            yield _misfit("logical_nc_config", what)
            return
        yield Finding("note", f"{what}: serve it with {LNC_VARIABLE}={lnc}")
    if host.cores is None or not contents.fields:
        return
    ranks = read_ranks(contents.fields).count
    cores = host.cores * (host.logical_nc_config or 1) // (lnc or host.logical_nc_config or 1)
    if ranks > cores:
        name = "tp_degree" if contents.fields.get("tp_degree") == ranks else "local_ranks_size"
        yield _misfit(name, f"it needs {ranks} cores, and the largest {host.target} has {cores}")


def _judge_packages(
    contents: NeuronDirectory, manifest: Manifest | None, host: NeuronHost
) -> Iterator[Finding]:
    backend = contents.kind.removesuffix("-multimodal")
    lacking = missing_packages(backend, host.packages)
    if lacking:
        what = f"{host.python} lacks {', '.join(lacking)}, without which nothing loads it"
        yield _misfit("toolchain", what)
        return
    for name, version in _versions_of(contents, manifest).items():
        here = host.packages.get(name, "none")
        if here != version:
            what = f"it was compiled with {name} {version}, and {host.python} has {here}"
            yield Finding("advice", what, field=name)
    level, here = level_of_fields(contents.fields), host.packages.get(_RELEASE, "")
    installed = level_of_release(here)
    if level and installed and level != installed:
        what = f"its configuration is of SDK {level.name}, and {host.python} has {installed.name}"
        yield Finding("advice", what, field=_RELEASE)


def _versions_of(contents: NeuronDirectory, manifest: Manifest | None) -> dict[str, str]:
    saved = {package: contents.fields.get(name) for name, package in _SAVED_VERSIONS.items()}
    versions = {**saved, **(manifest.toolchain if manifest else {})}
    return {name: v for name, v in versions.items() if isinstance(v, str) and v != UNKNOWN}


def _target_of(contents: NeuronDirectory, manifest: Manifest | None) -> str | None:
    named = manifest.target if manifest else contents.fields.get("target")
    return named if isinstance(named, str) and named in HARDWARE else None


def _lnc_of(contents: NeuronDirectory, target: str | None) -> int | None:
    """What the configuration says, else the graphs; optimum-neuron leaves it to the target."""
    lnc = contents.fields.get("logical_nc_config")
    if isinstance(lnc, int):
        return lnc
    if contents.kind == "optimum" and target:
        return 2 if target == "trn2" else 1
    found = {neff.neff.header.lnc for _, neff in contents.all_neffs} - {None}
    return found.pop() if len(found) == 1 else None


def _misfit(name: str, what: str) -> Finding:
    return Finding("incompatible", what, field=name)
