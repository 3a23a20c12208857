"""``inspect``: what an artifact is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._neuron import contents_json, contents_text
from neuron_artifacts.cli._options import AsJson

if TYPE_CHECKING:
    from neuron_artifacts.artifact import Manifest
    from neuron_artifacts.artifact.neuron_directory import NeuronDirectory


def inspect_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An artifact directory, or its key.")
    ],
    *,
    as_json: AsJson = False,
) -> int:
    """Show an artifact's key, configuration, toolchain, graphs and files.

    Of what a Neuron library wrote it shows NEFFs and shards too, with or without a manifest.
    """
    from neuron_artifacts.artifact import read_manifest
    from neuron_artifacts.errors import IncompleteError
    from neuron_artifacts.store.names import directory_called

    directory = directory_called(directory)
    contents = _read_contents(directory)
    try:
        manifest = read_manifest(directory)
    except IncompleteError:
        if contents is None:
            raise
        manifest = None
    if as_json:
        data = _render.artifact_json(directory, manifest) if manifest else {"path": str(directory)}
        _output.print_json({**data, **({"neuron": contents_json(contents)} if contents else {})})
        return 0
    parts = [_manifest_text(manifest)] if manifest else []
    parts += [contents_text(contents)] if contents else []
    _output.write("\n\n".join(parts))
    return 0


def _read_contents(directory: Path) -> NeuronDirectory | None:
    from neuron_artifacts.artifact.neuron_directory import read_neuron_directory
    from neuron_artifacts.errors import IncompleteError, MissError

    try:
        return read_neuron_directory(directory)
    except (IncompleteError, MissError):
        return None


def _manifest_text(manifest: Manifest) -> str:
    from neuron_artifacts.preflight import show_bytes

    facts = [
        ("key", manifest.key),
        ("model", f"{manifest.model.get('name')} {manifest.model.get('revision') or ''}".strip()),
        ("backend", f"{manifest.backend} for {manifest.target}"),
        *((name, value) for name, value in manifest.neuron_config.items()),
        *((f"toolchain {name}", value) for name, value in manifest.toolchain.items()),
        ("created", f"{manifest.created} by {manifest.created_by}"),
        ("size", show_bytes(manifest.total_bytes)),
    ]
    rows = [
        (g.phase, g.bucket, f"{g.seconds:.2f}", show_bytes(g.peak_memory_bytes),
         (g.reused_from or "-")[:12], g.digest[:12])
        for g in manifest.graphs
    ]  # fmt: skip
    headings = ("phase", "bucket", "seconds", "peak memory", "reused from", "digest")
    files = [(f.role, f.path, show_bytes(f.size), f.sha256[:12]) for f in manifest.files]
    return "\n\n".join(
        (
            _output.table(("field", "value"), facts),
            _output.table(headings, rows),
            _output.table(("role", "file", "size", "sha256"), files),
        )
    )
