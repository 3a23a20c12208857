"""``toolchains``: the interpreters that have the Neuron libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson

if TYPE_CHECKING:
    from neuron_artifacts.toolchain import Survey, Toolchain, Unusable

HELP = "Interpreters that have the Neuron libraries."


def list_command(
    *,
    python: Annotated[
        str | None,
        typer.Option("--python", metavar="PATH", help="Look at this interpreter first."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List the interpreters found here, what each holds and which backends it can run.

    Exits with 1 if the interpreter that was named does not work.
    """
    from neuron_artifacts.toolchain import survey_toolchains

    survey = survey_toolchains(os.environ, python=python)
    failed = any(unusable.named for unusable in survey.unusable)
    if as_json:
        _output.print_json(_as_json(survey, os.environ))
        return int(failed)
    blocks = [_as_text(toolchain, os.environ) for toolchain in survey.toolchains]
    blocks += [_failure_text(unusable) for unusable in survey.unusable]
    if not blocks:
        _output.talk("no Python was found here")
        return int(failed)
    _output.write("\n\n".join([*blocks, _machine_text(survey)]))
    return int(failed)


def _as_json(survey: Survey, environ: Mapping[str, str]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "machine": asdict(survey.machine),
        "toolchains": [_toolchain_json(toolchain, environ) for toolchain in survey.toolchains],
        "unusable": [asdict(unusable) for unusable in survey.unusable],
    }


def _toolchain_json(toolchain: Toolchain, environ: Mapping[str, str]) -> dict[str, Any]:
    from neuron_artifacts.toolchain.generations import (
        DESCRIPTIONS,
        GENERATIONS,
        ignored_variables,
        missing_packages,
    )

    ignored = ignored_variables(toolchain.packages, toolchain.generations, environ)
    return {
        "python": toolchain.python,
        "origin": toolchain.origin,
        "python_version": toolchain.python_version,
        "sdk": toolchain.sdk,
        "backends": list(toolchain.generations),
        "generations": {name: DESCRIPTIONS[name] for name in toolchain.generations},
        "missing": {
            name: list(missing_packages(name, toolchain.packages))
            for name in GENERATIONS
            if name not in toolchain.generations
        },
        "packages": dict(toolchain.packages),
        "placeholders": dict(toolchain.placeholders),
        "ignored_variables": {v.name: v.instead or f"only for {v.purpose}" for v in ignored},
    }


def _as_text(toolchain: Toolchain, environ: Mapping[str, str]) -> str:
    from neuron_artifacts.toolchain.discovery import install_command
    from neuron_artifacts.toolchain.generations import DESCRIPTIONS, ignored_variables

    sdk = f", Neuron SDK {toolchain.sdk}" if toolchain.sdk else ""
    rows = [
        ("python", f"{toolchain.python} ({toolchain.origin})"),
        ("version", f"{toolchain.python_version}{sdk}"),
        ("backends", ", ".join(toolchain.generations) or "none"),
        *(("generation", DESCRIPTIONS[name]) for name in toolchain.generations),
        *(("package", f"{name} {v}") for name, v in sorted(toolchain.packages.items())),
    ]
    for name, version in sorted(toolchain.placeholders.items()):
        rows.append(("placeholder", f"{name} {version}: from PyPI, and empty"))
    if toolchain.placeholders:
        rows.append(("remedy", install_command(toolchain)))
    for variable in ignored_variables(toolchain.packages, toolchain.generations, environ):
        why = f": {variable.instead}" if variable.instead else ""
        rows.append(("ignored", f"{variable.name} ({variable.purpose}){why}"))
    return _rows(rows)


def _failure_text(unusable: Unusable) -> str:
    return _rows([
        ("python", f"{unusable.python} ({unusable.origin})"),
        ("problem", unusable.reason),
    ])  # fmt: skip


def _machine_text(survey: Survey) -> str:
    from neuron_artifacts.cli._neuron_diagnosis import describe_machine

    machine = survey.machine
    if machine.devices:
        return _rows([("device", describe_machine(machine))])
    found = machine.problem or machine.platform or "none; compile with --target"
    return _rows([("device", found)])


def _rows(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:12} {text}" for name, text in rows)
