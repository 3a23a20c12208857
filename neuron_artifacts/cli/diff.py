"""``diff``: why two keys differ, and what each difference costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.key import Difference, diff_documents

IRRELEVANT = ("store", "output", "jobs", "model", "revision")
"""Options that never enter a key: a difference in them alone costs nothing."""


@dataclass(frozen=True)
class _Side:
    name: str
    key: str
    document: Mapping[str, Any]
    options: Mapping[str, Any]


def diff_command(
    left: Annotated[
        str, typer.Argument(metavar="A", help="A key, an artifact folder, or a YAML file.")
    ],
    right: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", help="The model, where a YAML file names none.")
    ] = None,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Say field by field why two keys differ, and what each costs: recompile, relink, nothing."""
    a, b = (_read(text, model, store) for text in (left, right))
    rows = [*diff_documents(a.document, b.document), *_option_rows(a.options, b.options)]
    if as_json:
        _output.print_json(
            {
                "left": a.key,
                "right": b.key,
                "same": a.key == b.key,
                "differences": [_render.difference_json(row) for row in rows],
                "cost": _total(rows),
            }
        )
        return 0
    _output.write(f"A  {a.key}\nB  {b.key}")
    if rows:
        _output.write("\n" + _render.difference_table(rows, "A", "B"))
    _output.write(f"\n{_summary(a, b, rows)}")
    return 0


def _read(text: str, model: str | None, store: str) -> _Side:
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path, model)
    from neuron_artifacts.artifact import read_manifest
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_artifact

    manifest = read_manifest(find_artifact(LocalStore(Path(store)), text))
    return _Side(text, manifest.key, manifest.document, {})


def _read_yaml(path: Path, model: str | None) -> _Side:
    from neuron_artifacts.build import resolve_request
    from neuron_artifacts.spec import resolve_spec

    spec = resolve_spec({"model": model}, config_file=path)
    key = resolve_request(spec, weights=False).key
    return _Side(
        str(path), key.key, key.document, {name: getattr(spec, name) for name in IRRELEVANT}
    )


def _option_rows(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, left[name], right[name], "nothing")
        for name in IRRELEVANT
        if name in left and name in right and left[name] != right[name]
    ]


def _total(rows: list[Difference]) -> str:
    costs = {row.cost for row in rows}
    return next((cost for cost in ("recompile", "relink") if cost in costs), "nothing")


def _summary(a: _Side, b: _Side, rows: list[Difference]) -> str:
    total = _total(rows)
    if a.key == b.key:
        return "the keys are equal: one artifact serves both"
    if total == "relink":
        return "the graphs are the same: from one to the other only weights and files are relinked"
    ours = set(a.document["graphs"].get("graphs", {}).values())
    theirs = set(b.document["graphs"].get("graphs", {}).values())
    return f"from A to B {len(theirs - ours)} of {len(theirs)} graphs must be compiled"
