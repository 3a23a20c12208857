"""``adopt``: take in what vLLM or NxD Inference compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson, Store


def adopt_command(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What was compiled: neuron-compiled-artifacts/MD5."),
    ],
    *,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="DIR",
            help="The model it was compiled from, for the tokenizer and what else is not in it.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="NAME", help="What it was compiled for, if it is known."),
    ] = None,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Bring a directory that vLLM compiled with NxD Inference into the store.

    It is checked and copied, never changed. What cannot be known of it, such as the compiler's
    version, is recorded as unknown. The generation of vLLM is told by the configuration it asks
    for.
    """
    from neuron_artifacts.build.adopt import adopt_directory
    from neuron_artifacts.cli._progress import show_progress
    from neuron_artifacts.store import LocalStore

    with show_progress() as observe:
        adopted = adopt_directory(
            directory, LocalStore(Path(store)), model=model, target=target, observe=observe
        )
    if as_json:
        data = _render.artifact_json(adopted.path, adopted.manifest)
        _output.print_json(
            {**data, "left_out": list(adopted.left_out), "was_there": adopted.was_there}
        )
        return 0
    rows = [
        ("key", adopted.manifest.key),
        ("vllm md5", adopted.manifest.serve["md5"]),
        ("vllm loader", adopted.manifest.serve["loader"] or "not known: env needs --vllm-loader"),
        ("path", adopted.path),
        ("verdict", "was there already" if adopted.was_there else "adopted"),
        *(("left out", name) for name in adopted.left_out),
        ("serve", _render.serve_command(adopted.path)),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        _output.write(f"{name.ljust(width)}  {value}")
    return 0
