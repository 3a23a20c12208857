"""``convert-eagle``: give an EAGLE draft the head of its target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli._progress import show_progress


def convert_eagle_command(
    draft: Annotated[str, typer.Argument(metavar="DRAFT", help="The draft: a folder or a hub id.")],
    *,
    target: Annotated[
        str,
        typer.Option("--target-model", metavar="MODEL", help="The model the draft drafts for."),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="A new folder for the draft.")
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Of the draft, on the hub.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write a copy of DRAFT that has the language-model head of its target.

    NxD Inference needs it there and published EAGLE drafts lack it. Both models stay as they
    are. Of a target on the hub only the file that holds the head is downloaded.
    """
    from neuron_artifacts.backends.nxdi.eagle import convert_eagle

    with show_progress() as observe:
        converted = convert_eagle(
            draft, target_model=target, output=output, revision=revision, observe=observe
        )
    head = converted.head.tensor
    if as_json:
        _output.print_json(
            {
                "path": str(converted.path),
                "head": {
                    "from": head.name,
                    "file": converted.head.file,
                    "shape": list(head.shape),
                    "stored_as": head.dtype,
                    "dtype": converted.dtype,
                },
                "files": list(converted.files),
            }
        )
        return 0
    cast = "" if head.dtype == converted.dtype else f", cast from {head.dtype}"
    _output.write(f"path  {converted.path}")
    _output.write(f"head  {head.name} {list(head.shape)} as {converted.dtype}{cast}")
    _output.write(f"use   --speculative-model {converted.path} --speculative-method eagle")
    return 0
