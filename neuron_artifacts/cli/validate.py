"""``validate``: does a directory hold what its manifest promises?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson


def validate_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact directory.")],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte, not just manifest, sizes and headers.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Check an artifact; the exit code is the verdict's."""
    from neuron_artifacts.backends.checks import check_artifact

    verdict = check_artifact(directory, "full" if full else "quick")
    if as_json:
        _output.print_json(
            {
                "path": str(directory),
                "status": verdict.status,
                "depth": verdict.depth,
                "problems": list(verdict.problems),
                "extra_files": list(verdict.extra_files),
                "key": verdict.manifest.key if verdict.manifest else None,
                "exit_code": int(verdict.exit_code),
                "hint": verdict.hint,
            }
        )
        return verdict.exit_code
    _output.write(f"{directory}: {verdict.status} ({verdict.depth})")
    for problem in verdict.problems:
        _output.write(f"  {problem}")
    for name in verdict.extra_files:
        _output.write(f"  {name} is not part of the artifact, and is never read")
    if verdict.hint:
        _output.talk(f"tip: {verdict.hint}")
    return verdict.exit_code
