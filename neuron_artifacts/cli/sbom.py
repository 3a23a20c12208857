"""``sbom``: what an artifact is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import Store


def sbom_command(
    artifact: Annotated[
        str, typer.Argument(metavar="KEY|DIR", help="By key, its beginning, or directory.")
    ],
    *,
    store: Store = ".",
    as_json: Annotated[bool, typer.Option("--json", help="The only form there is.")] = True,  # noqa: ARG001
) -> int:
    """Print a bill of materials: toolchain, model and every file, as CycloneDX JSON."""
    from neuron_artifacts.artifact import read_manifest
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_artifact
    from neuron_artifacts.trust.sbom import make_sbom

    path = find_artifact(LocalStore(Path(store)), artifact)
    _output.print_json(make_sbom(read_manifest(path)))
    return 0
