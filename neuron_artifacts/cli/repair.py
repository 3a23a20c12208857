"""``repair``: make damaged artifacts whole again, or set them aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from neuron_artifacts.build.repair import Repair


def repair_command(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY|DIR…]", help="Artifacts by key, its beginning, or directory."),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every artifact of the store.")] = False,
    store: Store = ".",
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model, where an artifact no longer says which."),
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote", metavar="NAME|URL", help="A remote store to fetch from before building."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Read artifacts to the last byte, and fetch or build again those that do not hold.

    What cannot be built again is set aside in the store, never deleted; then the exit code is 5.
    What cannot be read is left as it is; then it is 1.
    """
    from neuron_artifacts.build import compile_artifact
    from neuron_artifacts.build.repair import repair_artifact
    from neuron_artifacts.build.shared import fetch_instead
    from neuron_artifacts.cli.compile_ import open_share
    from neuron_artifacts.spec import resolve_spec
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.local import is_ours
    from neuron_artifacts.store.names import find_artifact

    if bool(artifacts) == every:
        raise UsageError("name artifacts, or give --all for every one of the store")
    root = LocalStore(Path(store))
    share = open_share(remote) if remote else None
    paths = (
        [p for p in root.directories() if is_ours(p)]
        if every
        else [find_artifact(root, name) for name in artifacts or ()]
    )
    with show_progress() as observe:

        def rebuild(flags: dict[str, Any]) -> None:
            spec = resolve_spec({**flags, "store": str(root.root)})
            compile_artifact(spec, observe=observe)

        def fetch(key: str) -> bool:
            return share is not None and fetch_instead(share, key, root, root.path(key), observe)

        repairs = [
            repair_artifact(path, root, rebuild=rebuild, fetch=share and fetch, model=model)
            for path in paths
        ]
    if as_json:
        _output.print_json({"artifacts": [_json(repair) for repair in repairs]})
    else:
        for repair in repairs:
            _output.write(_line(repair))
    actions = {repair.action for repair in repairs}
    if actions & {"quarantined", "kept"}:
        return ExitCode.CORRUPT
    return ExitCode.ERROR if "unreadable" in actions else ExitCode.OK


def _line(repair: Repair) -> str:
    where = f" as {repair.now_at}" if repair.action == "quarantined" else ""
    why = f": {repair.reason}" if repair.reason else ""
    return f"{repair.action}{where}  {repair.path}{why}"


def _json(repair: Repair) -> dict[str, Any]:
    return {
        "path": str(repair.path), "action": repair.action, "reason": repair.reason,
        "now_at": None if repair.now_at is None else str(repair.now_at),
    }  # fmt: skip
