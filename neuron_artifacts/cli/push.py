"""``push``: put artifacts into a remote store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.cli._progress import show_progress


def push_command(
    keys: Annotated[
        list[str],
        typer.Argument(metavar="KEY…", help="Keys, beginnings of keys, or directories."),
    ],
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="NAME", help="Name or URL. (default: the only one)"),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="HOW",
            help="copy, or by-reference: leave weights where the hub has them.",
        ),
    ] = "copy",
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Put artifacts into a remote store; only files that are missing there travel."""
    from neuron_artifacts.errors import UsageError
    from neuron_artifacts.remote import open_remote, push_artifact
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_artifact

    if weights not in ("copy", "by-reference"):
        raise UsageError(f"--weights is copy or by-reference, not {weights}")
    remote = open_remote(to)
    directories = [find_artifact(LocalStore(Path(store)), key) for key in keys]
    with show_progress() as observe:
        pushed = [
            push_artifact(remote, directory, weights=weights, observe=observe)  # type: ignore[arg-type]
            for directory in directories
        ]
    if as_json:
        _output.print_json({"remote": remote.url, "pushed": [vars(one) for one in pushed]})
    else:
        for one in pushed:
            _output.write(_describe(one, remote.url))
    return 0


def _describe(pushed: Any, url: str) -> str:
    from neuron_artifacts.preflight import show_bytes

    verb = "pushed to" if pushed.published else "is already in"
    lines = [
        f"{pushed.key} {verb} {url}{', and is signed there now' if pushed.signed else ''}",
        f"sent      {show_bytes(pushed.sent_bytes)} of {show_bytes(pushed.total_bytes)}, "
        f"{pushed.sent_files} of {pushed.files} files, in {_output.seconds(pushed.seconds)}",
    ]
    if pushed.referenced_bytes:
        lines.append(f"left      {show_bytes(pushed.referenced_bytes)} of weights at the hub")
    return "\n".join(lines)
