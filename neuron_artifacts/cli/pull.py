"""``pull``: bring artifacts of a remote store here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.cli._progress import show_progress


def pull_command(
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="Keys or beginnings of keys.")],
    *,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Name or URL. (default: the only one)"),
    ] = None,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Bring artifacts here; what other artifacts of the store have is linked, not fetched.

    Every byte is checked before anything shows. After an interruption, run it again: it goes on
    where it was.
    """
    from neuron_artifacts.build.shared import Share, pull_trusted
    from neuron_artifacts.remote import find_key, names_of, open_remote
    from neuron_artifacts.store import LocalStore

    remote, local = open_remote(source), LocalStore(Path(store))
    wanted = [find_key(key, remote) for key in keys]
    with show_progress() as observe:
        share = Share(source or remote.url, remote, names=names_of(source))
        pulled = [pull_trusted(share, key, local, observe=observe) for key in wanted]
    if as_json:
        _output.print_json({"remote": remote.url, "pulled": [vars(one) for one in pulled]})
    else:
        for one in pulled:
            _output.write(_describe(one))
    return 0


def _describe(pulled: Any) -> str:
    from neuron_artifacts.preflight import show_bytes

    signed = [f"signed    {pulled.signatures} signatures are new"] if pulled.signatures else []
    if pulled.already_there:
        return "\n".join([f"{pulled.key} is already at {pulled.path}", *signed])
    sources = {
        "fetched": pulled.fetched_bytes,
        "fetched before": pulled.resumed_bytes,
        "linked": pulled.linked_bytes,
        "from the hub": pulled.hub_bytes,
    }
    shares = ", ".join(f"{show_bytes(count)} {what}" for what, count in sources.items() if count)
    lines = [f"{pulled.path}", f"moved     {shares}, in {_output.seconds(pulled.seconds)}"]
    lines += signed
    if pulled.set_aside:
        lines.append(f"aside     what lay there broken is {pulled.set_aside}")
    return "\n".join(lines)
