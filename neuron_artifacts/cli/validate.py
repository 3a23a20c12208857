"""``validate``: does a directory hold what it should, and would it run?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson

if TYPE_CHECKING:
    from neuron_artifacts.artifact import Depth, Verdict
    from neuron_artifacts.backends.neuron_checks import NeuronVerdict
    from neuron_artifacts.backends.neuron_host import NeuronHost


def validate_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An artifact directory, or its key.")
    ],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte, not just manifest, sizes and headers.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="Judge a Neuron directory for this device (trn1) or machine (trn1.2xlarge).",
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="Judge it for the Neuron libraries of this Python."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check an artifact; the exit code is the verdict's.

    A directory that a Neuron library wrote needs no manifest: it is usable, usable but better
    compiled again, incompatible, or corrupt.
    """
    from neuron_artifacts.backends.checks import check_artifact
    from neuron_artifacts.backends.neuron_checks import check_neuron_directory
    from neuron_artifacts.errors import UsageError
    from neuron_artifacts.store.names import directory_called

    directory = directory_called(directory)
    depth: Depth = "full" if full else "quick"
    neuron = check_neuron_directory(directory, depth, host=_host(target, python))
    if neuron is None and (target or python) and directory.is_dir():
        raise UsageError(
            f"{directory} is not the work of a Neuron library, and has no other device to fit",
            hint="leave out --target and --python",
        )
    verdict = neuron.verdict if neuron else check_artifact(directory, depth)
    if as_json:
        _output.print_json({**_as_json(verdict), **(_neuron_json(neuron) if neuron else {})})
        return verdict.exit_code
    _output.write(f"{directory}: {neuron.word if neuron else verdict.status} ({verdict.depth})")
    for problem in verdict.problems:
        _output.write(f"  {problem}")
    for finding in neuron.findings if neuron else ():
        if not finding.is_problem:
            _output.write(f"  {finding.severity}: {finding}")
    for name in verdict.extra_files:
        _output.write(f"  {name} is not part of the artifact, and is never read")
    if verdict.hint:
        _output.talk(f"tip: {verdict.hint}")
    return verdict.exit_code


def _host(target: str | None, python: str | None) -> NeuronHost | None:
    if target is None and python is None:
        return None
    from neuron_artifacts.backends.neuron_host import make_host, named_toolchain

    toolchain = named_toolchain(python, os.environ) if python else None
    return make_host(target, toolchain, os.environ)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "path": str(verdict.path),
        "status": verdict.status,
        "depth": verdict.depth,
        "problems": list(verdict.problems),
        "extra_files": list(verdict.extra_files),
        "key": verdict.manifest.key if verdict.manifest else None,
        "exit_code": int(verdict.exit_code),
        "hint": verdict.hint,
    }


def _neuron_json(neuron: NeuronVerdict) -> dict[str, Any]:
    return {
        "verdict": neuron.word,
        "kind": neuron.contents.kind if neuron.contents else None,
        "findings": [vars(finding) for finding in neuron.findings],
    }
