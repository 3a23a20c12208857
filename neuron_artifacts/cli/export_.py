"""``export`` and ``import``: artifacts as tar files, for networks without a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.cli._progress import show_progress


def export_command(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="A key, its beginning, or a directory.")
    ],
    target: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What to write.")],
    *,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Write an artifact as one tar file, checking every byte."""
    from neuron_artifacts.preflight import show_bytes
    from neuron_artifacts.remote import export_artifact
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_artifact

    directory = find_artifact(LocalStore(Path(store)), key)
    with show_progress() as observe:
        bundle = export_artifact(directory, target, observe=observe)
    if as_json:
        _output.print_json(vars(bundle))
    else:
        _output.write(f"{bundle.path} holds {bundle.key}, {show_bytes(bundle.bytes)}")
    return 0


def import_command(
    source: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What export wrote.")],
    *,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Make the artifact in a tar file part of the store, if every byte is as listed.

    And if whoever the policy asks for has signed it; see `docs/trust.md`.
    """
    from neuron_artifacts.build.importing import import_trusted
    from neuron_artifacts.store import LocalStore

    with show_progress() as observe:
        bundle = import_trusted(source, LocalStore(Path(store)), observe=observe)
    if as_json:
        _output.print_json(vars(bundle))
    else:
        verb = "is already at" if bundle.already_there else "is at"
        _output.write(f"{bundle.key} {verb} {bundle.path}")
    return 0
