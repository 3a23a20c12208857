"""``remote add``, ``remote list``, ``remote remove``: which remote stores there are."""

from __future__ import annotations

from typing import Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson

HELP = "Remote stores, to share artifacts between machines."

Name = Annotated[str, typer.Argument(metavar="NAME", help="What to call the store.")]


def add_command(
    name: Name,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="file:///dir, s3://bucket/prefix, gs://…, az://…, hf://org/repo, oci://host/repo.",
        ),
    ],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Add it although it failed the probe.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Remember a remote store, after trying what publishing relies on.

    A store that lets two publishers both succeed under one name is refused. Credentials are never
    part of the URL: each store's usual place has them.
    """
    from neuron_artifacts.remote import add_remote

    probe = add_remote(name, url, force=force)
    if as_json:
        _output.print_json(
            {
                "name": name,
                "url": url,
                "conditional": probe.conditional,
                "problem": probe.problem,
            }
        )
    else:
        _output.write(f"{name} is {url}")
    if probe.problem:
        _output.talk(f"note: {probe.problem}")
    return 0


def list_command(*, as_json: AsJson = False) -> int:
    """List the remote stores."""
    from neuron_artifacts.remote import read_remotes

    remotes = read_remotes()
    if as_json:
        rows = [{"name": name, "url": url} for name, url in remotes.items()]
        _output.print_json({"remotes": rows})
    elif remotes:
        _output.write(_output.table(("name", "url"), remotes.items()))
    else:
        _output.talk("there are no remote stores; neuron-artifacts remote add NAME URL adds one")
    return 0


def remove_command(name: Name, *, as_json: AsJson = False) -> int:
    """Forget a remote store; nothing in it is touched."""
    from neuron_artifacts.remote import remove_remote

    url = remove_remote(name)
    if as_json:
        _output.print_json({"name": name, "url": url, "removed": True})
    else:
        _output.write(f"{name} is forgotten; {url} is as it was")
    return 0
