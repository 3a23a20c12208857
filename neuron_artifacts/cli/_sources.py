"""How the answers of several sources read, as JSON and as text."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli.neuron_cache import outcome_text, pre_exported_text, request_text

if TYPE_CHECKING:
    from neuron_artifacts.sources import LookupResult, SourceListing, SourceReport

_COLOURS = {"hit": "green", "error": "red", "miss": "yellow"}


def lookup_json(found: LookupResult) -> dict[str, Any]:
    """The lookup as data; the local store's decision at the top, as ``compile`` gives it."""
    body: dict[str, Any] = {}
    for report in found.reports:
        if report.kind == "store" and report.detail:
            body = {**_render.decision_json(report.detail), "store": report.where}
            body["path"] = report.facts["path"]
    if found.request:
        body["requested"] = found.request.wanted()
        body["pre_exported"] = found.pre_exported and found.pre_exported.document()
    body["found"] = found.found
    body["sources"] = [report.document() for report in found.reports]
    body["absent"] = [_absent_json(report) for report in found.absent]
    return body


def lookup_text(found: LookupResult) -> str:
    """The lookup as text: a table if several sources answered, then each in detail."""
    blocks = [request_text(found.request)] if found.request else []
    if len(found.reports) != 1:
        blocks.append(_table(found.reports))
    if found.pre_exported:
        blocks.append(pre_exported_text(found.pre_exported))
    blocks += [text for report in found.reports if (text := _detail(report))]
    if found.absent:
        blocks.append("\n".join(
            f"absent    {report.source}: {report.where}: {report.reason}" for report in found.absent
        ))  # fmt: skip
    return "\n\n".join(blocks)


def listings_text(listings: Sequence[SourceListing]) -> str:
    """What every source holds, a block each."""
    blocks = []
    for listing in listings:
        where = "" if listing.where == listing.source else f" ({listing.where})"
        said = listing.reason if listing.status != "error" else f"error: {listing.reason}"
        lines = [f"source    {listing.source}{where}", f"holds     {said}"]
        if listing.rows:
            lines += ["", _rows_table(listing.rows)]
        lines += _problem_lines(listing.facts)
        registry = listing.facts.get("registry")
        if registry and registry["rows"]:
            lines += ["", f"exported  by optimum-neuron {registry['release']}",
                      _rows_table(registry["rows"])]  # fmt: skip
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _table(reports: Sequence[SourceReport]) -> str:
    rows = [(r.source, r.status, r.configuration, r.saves) for r in reports]
    return _output.table(("source", "verdict", "configuration", "saves"), rows)


def _detail(report: SourceReport) -> str:
    from neuron_artifacts.neuron_cache import SourceOutcome

    head = f"source    {report.source}"
    if report.kind == "store":
        return f"{head}\n{_render.decision_text(report.detail)}"
    if isinstance(report.detail, SourceOutcome):
        lines = [head, outcome_text(report.detail, report.reason)]
    else:
        colour = _COLOURS.get(report.status, "cyan")
        verdict = _output.styled(report.status, colour, stream=sys.stdout)
        lines = [head, f"verdict   {verdict}: {report.reason}"]
        if report.rows:
            lines += ["", _rows_table(report.rows)]
    return "\n".join([*lines, *_problem_lines(report.facts)])


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names they share; nested values and paths stay for ``--json``."""
    nested = {name for row in rows for name, value in row.items() if isinstance(value, Mapping)}
    names = [name for name in rows[0] if name not in nested and name != "path"]
    return _output.table(names, [[_short(row.get(name)) for name in names] for row in rows])


def _short(value: Any) -> Any:
    return _render.shorten(value) if isinstance(value, str) else value


def _problem_lines(facts: Mapping[str, Any]) -> list[str]:
    problems: Sequence[Mapping[str, Any]] = facts.get("problems") or ()
    lines = []
    for problem in problems:
        reason = f": {problem['reason']}" if problem.get("reason") else ""
        lines += [
            f"{problem['state']:<10}{problem['path']}{reason}",
            f"          {problem['remedy']}",
        ]
    return lines


def _absent_json(report: SourceReport) -> dict[str, Any]:
    return {"source": report.source, "where": report.where, "reason": report.reason}
