"""``remote gc``: remove what killed pushes left in a remote store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli.gc import read_age

_SHOWN = 20


def gc_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name or URL. (default: the only one)")
    ] = None,
    *,
    grace: Annotated[
        str,
        typer.Option("--grace", metavar="AGE", help="Younger blobs stay, e.g. 7d."),
    ] = "7d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Remove blobs of a remote store that no artifact names and that are older than the grace.

    What a push that runs meanwhile is about to name stays. Artifacts are never touched.
    """
    from neuron_artifacts.remote import collect_remote, open_remote

    def announce(orphans: Sequence[Any]) -> None:
        word = "would remove" if dry_run else "removing"
        for orphan in orphans[:_SHOWN]:
            _output.talk(f"{word} {orphan.name}, {_bytes(orphan.size)}")
        if len(orphans) > _SHOWN:
            _output.talk(f"{word} {len(orphans) - _SHOWN} more")

    remote = open_remote(name)
    found = collect_remote(remote, grace=read_age(grace), dry_run=dry_run, announce=announce)
    if as_json:
        _output.print_json({"remote": remote.url, "dry_run": dry_run, **_report(found)})
    else:
        _output.write(_describe(found, dry_run))
    return 0


def _report(found: Any) -> dict[str, Any]:
    return {
        "orphans": [vars(orphan) for orphan in found.orphans],
        "orphan_bytes": found.orphan_bytes,
        "total_bytes": found.total_bytes,
        "removed": found.removed,
        "spared": found.spared,
        "ran_out": found.ran_out,
    }


def _describe(found: Any, dry_run: bool) -> str:
    number, size = len(found.orphans), _bytes(found.orphan_bytes)
    share = f"{size} of {_bytes(found.total_bytes)}"
    if dry_run:
        return f"would remove {number} orphans, {share}"
    lines = [f"removed {found.removed} of {number} orphans, {share}"]
    if found.spared:
        lines.append(f"spared {found.spared}, which a push is about to name")
    if found.ran_out:
        lines.append("time ran out: run it again for the rest")
    return "\n".join(lines)


def _bytes(count: int) -> str:
    from neuron_artifacts.preflight import show_bytes

    return show_bytes(count)
