"""``gc``, ``pin`` and ``unpin``: what a store keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.errors import UsageError

if TYPE_CHECKING:
    from neuron_artifacts.store.gc import CollectionPlan, Removal

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def gc_command(
    *,
    store: Store = ".",
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Remove the least recently used until the store fits, e.g. 200G.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="AGE", help="Remove what was not used for longer, e.g. 30d."
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="The N last used stay in any case.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Remove what is no longer used, the least recently used first.

    Without a limit only litter goes: temporaries and leases of processes that are gone. Pinned
    artifacts and those that a living process holds stay whatever the limits say.
    """
    from neuron_artifacts.build.litter import collect_litter, find_litter
    from neuron_artifacts.store import LocalStore, gc

    root = LocalStore(Path(store))
    if not root.root.is_dir():
        _output.talk(f"{root.root} does not exist: nothing to collect")
        return _print_json(as_json, root.root, gc.CollectionPlan((), (), 0), [], {})
    entries, now = gc.take_inventory(root, is_dry=dry_run)
    plan = gc.plan_collection(
        entries, now=now, keep=keep,
        max_size=None if max_size is None else read_size(max_size),
        older_than=None if older_than is None else read_age(older_than),
    )  # fmt: skip
    litter = find_litter(root)
    _announce(plan, litter, dry_run)
    removed = []
    if not dry_run:
        swept = collect_litter(root, litter)
        removed = gc.remove(root, plan.removals)
        freed = _output_bytes(sum(removal.freed for removal in removed))
        _output.talk(
            f"removed {len(removed)} of {len(entries)} artifacts ({freed}) and "
            f"{len(swept)} abandoned temporaries"
        )
    return _print_json(as_json, root.root, plan, removed, litter)


def pin_command(
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="Keys, or their beginnings.")],
    *,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Never let gc remove these artifacts."""
    return _change_pins(keys, store, as_json, pinned=True)


def unpin_command(
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="Keys, or their beginnings.")],
    *,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Let gc remove these artifacts again."""
    return _change_pins(keys, store, as_json, pinned=False)


def read_size(text: str) -> int:
    """Bytes: ``200G``, ``1.5T``, ``512MiB``; powers of 1024.

    Raises
    ------
    UsageError
        It is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r} is not a size", hint="write it as 200G or 512M")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def read_age(text: str) -> float:
    """Seconds: ``30d``, ``12h``, ``2w``.

    Raises
    ------
    UsageError
        It is no age.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if not match:
        raise UsageError(f"{text!r} is not an age", hint="write it as 30d or 12h")
    return float(match[1]) * _SECONDS[match[2]]


def _change_pins(keys: list[str], store: str, as_json: bool, *, pinned: bool) -> int:
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.leases import pin, unpin
    from neuron_artifacts.store.names import find_artifact
    from neuron_artifacts.store.staging import storing

    root = LocalStore(Path(store))
    paths = [find_artifact(root, key) for key in keys]
    for path in paths:
        with storing(path):
            (pin if pinned else unpin)(path)
        _output.talk(f"{path.name} is {'pinned' if pinned else 'no longer pinned'}")
    if as_json:
        _output.print_json({"pinned": pinned, "artifacts": [str(path) for path in paths]})
    return 0


def _announce(plan: CollectionPlan, litter: Mapping[Path, int], dry_run: bool) -> None:
    word = "would remove" if dry_run else "removing"
    for entry in plan.protected:
        why = "pinned" if entry.pinned else f"held by {len(entry.holders)} processes"
        _output.talk(f"stays: {entry.path.name[:16]} is {why}")
    for removal in plan.removals:
        _output.talk(
            f"{word} {removal.entry.path.name[:40]}: {removal.reason}, frees "
            f"{_output_bytes(removal.freed)}"
        )
    for path, size in litter.items():
        _output.talk(f"{word} {path.name[:40]}: abandoned, frees {_output_bytes(size)}")
    verb = "would free" if dry_run else "frees"
    _output.talk(
        f"{verb} {_output_bytes(plan.freed + sum(litter.values()))} of "
        f"{_output_bytes(plan.size + sum(litter.values()))}"
    )


def _print_json(
    as_json: bool,
    root: Path,
    plan: CollectionPlan,
    removed: list[Removal],
    litter: Mapping[Path, int],
) -> int:
    if as_json:
        gone = {removal.entry.path for removal in removed}
        _output.print_json({
            "store": str(root),
            "size": plan.size,
            "would_free": plan.freed,
            "freed": sum(removal.freed for removal in removed),
            "removals": [_removal_json(removal, gone) for removal in plan.removals],
            "protected": [str(entry.path) for entry in plan.protected],
            "litter": [str(path) for path in litter],
            "litter_bytes": sum(litter.values()),
        })  # fmt: skip
    return 0


def _removal_json(removal: Removal, gone: set[Path]) -> dict[str, Any]:
    return {
        "path": str(removal.entry.path), "reason": removal.reason, "bytes": removal.freed,
        "removed": removal.entry.path in gone,
    }  # fmt: skip


def _output_bytes(count: int) -> str:
    from neuron_artifacts.preflight import show_bytes

    return show_bytes(count)
