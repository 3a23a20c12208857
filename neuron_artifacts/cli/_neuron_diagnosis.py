"""What ``doctor`` says of Neuron: interpreters, devices, and the variables they would read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from neuron_artifacts.cli._diagnosis import Diagnosis, State
from neuron_artifacts.toolchain import Machine, Survey, Toolchain
from neuron_artifacts.toolchain.discovery import install_command
from neuron_artifacts.toolchain.generations import VARIABLES, ignored_variables
from neuron_artifacts.toolchain.platforms import (
    GIB,
    LNC_VARIABLE,
    TARGET_VARIABLE,
    TARGETS,
)

COMPILER_VARIABLES = {
    "NEURON_CC_FLAGS": "flags of neuronx-cc, part of the key",
    TARGET_VARIABLE: "the Neuron device to compile for",
    LNC_VARIABLE: "physical cores in a logical one",
}
"""Read by every generation, so by none where there is none."""

OURS = ("NEURON_COMPILED_ARTIFACTS", "CUSTOM_CACHE_REPO")
"""Variables this tool reads whatever is installed."""


def diagnose_neuron(survey: Survey, environ: Mapping[str, str]) -> list[Diagnosis]:
    """Everything worth a line, in the order of the report."""
    able = [toolchain for toolchain in survey.toolchains if toolchain.generations]
    return [
        *_interpreters(survey, able),
        *_placeholders(survey),
        *_devices(survey.machine, able),
        *_variables(able, environ),
    ]


def _interpreters(survey: Survey, able: list[Toolchain]) -> Iterator[Diagnosis]:
    for toolchain in able:
        sdk = f", SDK {toolchain.sdk}" if toolchain.sdk else ""
        backends = ", ".join(toolchain.generations)
        text = f"{toolchain.python} (Python {toolchain.python_version}{sdk}) runs {backends}"
        yield Diagnosis("toolchain", "ok", text)
    for unusable in survey.unusable:
        state: State = "problem" if unusable.named else "warning"
        text = f"{unusable.python} ({unusable.origin}) does not work: {unusable.reason}"
        yield Diagnosis("toolchain", state, text)
    if not able:
        hint = "to compile for Neuron, name an interpreter with NEURON_ARTIFACTS_PYTHON"
        yield Diagnosis("toolchain", "info", "no Python here has the Neuron libraries", hint)


def _placeholders(survey: Survey) -> Iterator[Diagnosis]:
    for toolchain in survey.toolchains:
        if toolchain.placeholders:
            named = ", ".join(f"{n} {v}" for n, v in sorted(toolchain.placeholders.items()))
            text = f"{toolchain.python}: {named} from PyPI only reserve the name, and are empty"
            yield Diagnosis("toolchain", "warning", text, install_command(toolchain))


def _devices(machine: Machine, able: list[Toolchain]) -> Iterator[Diagnosis]:
    if machine.problem:
        yield Diagnosis("device", "warning", machine.problem)
    if machine.devices:
        yield Diagnosis("device", "ok", describe_machine(machine))
    elif machine.platform:
        text = f"{machine.platform}; neuron-ls, which counts its cores, is not here"
        yield Diagnosis("device", "warning", text, "install aws-neuronx-tools")
    elif able:
        hint = f"compile with --target {'|'.join(TARGETS)}"
        yield Diagnosis(
            "device", "info", "no Neuron device: this host compiles, and serves not", hint
        )
    busy = sorted({pid for device in machine.devices for pid in device.pids})
    if busy:
        pids = ", ".join(map(str, busy))
        yield Diagnosis("device", "warning", f"in use by process {pids}")


def _variables(able: list[Toolchain], environ: Mapping[str, str]) -> Iterator[Diagnosis]:
    for name, what in COMPILER_VARIABLES.items():
        if environ.get(name) and able:
            yield Diagnosis("variable", "info", f"{name}={environ[name]}: honoured, {what}")
    if not able:
        names = [*COMPILER_VARIABLES, *(v.name for v in VARIABLES if v.name not in OURS)]
        for name in names:
            if environ.get(name):
                text = f"{name}: ignored, no Neuron toolchain was found here"
                yield Diagnosis("variable", "warning", text)
    for toolchain in able:
        generations = ", ".join(toolchain.generations)
        packages = toolchain.packages
        for variable in ignored_variables(packages, toolchain.generations, environ):
            text = (
                f"{variable.name} ({variable.purpose}): ignored by {generations} in "
                f"{toolchain.python}"
            )
            yield Diagnosis("variable", "warning", text, variable.instead or None)


def describe_machine(machine: Machine) -> str:
    """One line: which instance, how many devices and logical cores, how much memory each."""
    devices = machine.devices
    first = devices[0]
    plural = "s" if len(devices) > 1 else ""
    name = machine.instance or machine.platform or "unknown device"
    runtime = f", runtime {machine.runtime}" if machine.runtime else ""
    return (
        f"{name}: {len(devices)} device{plural} of {first.memory / GIB:g} GiB, "
        f"{sum(device.cores for device in devices)} logical cores "
        f"(LNC {first.logical_nc_config}){runtime}"
    )
