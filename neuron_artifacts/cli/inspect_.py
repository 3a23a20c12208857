"""``inspect``: what an artifact is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson


def inspect_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact directory.")],
    *,
    as_json: AsJson = False,
) -> int:
    """Show an artifact's key, configuration, toolchain, graphs and files."""
    from neuron_artifacts.artifact import read_manifest
    from neuron_artifacts.preflight import show_bytes

    manifest = read_manifest(directory)
    if as_json:
        _output.print_json(_render.artifact_json(directory, manifest))
        return 0
    facts = [
        ("key", manifest.key),
        ("model", f"{manifest.model.get('name')} {manifest.model.get('revision') or ''}".strip()),
        ("backend", f"{manifest.backend} for {manifest.target}"),
        *((name, value) for name, value in manifest.neuron_config.items()),
        *((f"toolchain {name}", value) for name, value in manifest.toolchain.items()),
        ("created", f"{manifest.created} by {manifest.created_by}"),
        ("size", show_bytes(manifest.total_bytes)),
    ]
    _output.write(_output.table(("field", "value"), facts))
    _output.write("")
    rows = [
        (g.phase, g.bucket, f"{g.seconds:.2f}", show_bytes(g.peak_memory_bytes),
         (g.reused_from or "-")[:12], g.digest[:12])
        for g in manifest.graphs
    ]  # fmt: skip
    headings = ("phase", "bucket", "seconds", "peak memory", "reused from", "digest")
    _output.write(_output.table(headings, rows))
    _output.write("")
    files = [(f.role, f.path, show_bytes(f.size), f.sha256[:12]) for f in manifest.files]
    _output.write(_output.table(("role", "file", "size", "sha256"), files))
    return 0
