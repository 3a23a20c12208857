"""How the answer of a Neuron cache reads as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from neuron_artifacts.cli import _output
from neuron_artifacts.neuron_cache import CacheRequest, Near, PreExported, Row, SourceOutcome
from neuron_artifacts.neuron_cache.client import describe_age
from neuron_artifacts.neuron_cache.outcome import SHAPE

HINT = (
    "a decoder's row is a hint, not proof: which graphs it stands for only a trace can tell; "
    "a traced model's can be checked with --prove"
)
_SHOWN = 5


def request_text(request: CacheRequest) -> str:
    """What was asked, as entries name it."""
    said = ", ".join(f"{name} {value}" for name, value in request.wanted().items())
    return f"asked     {said or 'whatever there is'}"


def outcome_text(outcome: SourceOutcome, reason: str) -> str:
    """The answer of one cache, and in a few words what it amounts to."""
    colour = {"hit": "green", "error": "red", "miss": "yellow"}.get(outcome.status, "cyan")
    verdict = _output.styled(outcome.status, colour, stream=sys.stdout)
    lines = [f"verdict   {verdict}: {reason}"]
    if outcome.release:
        compilers = ", ".join(outcome.compilers)
        lines.append(f"usable    optimum-neuron {outcome.release}, neuronx-cc {compilers}")
    if outcome.age is not None:
        lines.append(f"offline   as the hub was {describe_age(outcome.age)} ago")
    if outcome.rows:
        lines += ["", _rows_table(outcome.rows)]
    lines += _nearest_lines(outcome)
    if outcome.skipped:
        first = outcome.skipped[0]
        lines.append(
            f"skipped   {_count(outcome.skipped, 'file')}, the first {first.path}: {first.reason}"
        )
    if any(row.kind == "decoder" for row in outcome.every_row()):
        lines.append(f"note      {HINT}")
    return "\n".join(lines)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _rows_table(rows: Sequence[Row]) -> str:
    """Decoders under one heading; a traced row by its own names, which differ from row to row."""
    shown = [
        (*(row.shape.get(name) for name in SHAPE), row.task, row.release, _models(row.model_ids))
        for row in rows if row.kind == "decoder"
    ]  # fmt: skip
    parts = []
    if shown:
        parts.append(_output.table((*SHAPE, "task", "release", "models"), shown))
    parts += [_traced_line(row) for row in rows if row.kind != "decoder"]
    return "\n".join(parts)


def _traced_line(row: Row) -> str:
    proof = {True: ", graphs present", False: ", graphs MISSING", None: ""}[row.proved]
    return f"{row.summary()} ({row.task}, release {row.release}{proof}) {_models(row.model_ids)}"


def _nearest_lines(source: SourceOutcome) -> list[str]:
    nearest = source.nearest
    singles = (("larger", nearest.sufficient), ("closest", nearest.below))
    lines = [_near_line(name, near) for name, near in singles if near]
    groups = (("target", nearest.other_target), ("release", nearest.other_release))
    for name, rows in groups:
        lines += [_near_line(name, near) for near in rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            lines.append(f"          and {len(rows) - _SHOWN} more (--json shows all)")
    return ["", *lines] if lines else []


def _near_line(name: str, near: Near) -> str:
    return f"{name:<10}{near.summary()}"


def _models(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def pre_exported_text(found: PreExported) -> str:
    """That the model itself is compiled, and what it needs to be loaded."""
    locks = [f"{k.package} {'' if k.exact else '>= '}{k.version}" for k in found.locks]
    missing = "" if found.complete is not False else ", but its graphs are missing"
    return (
        f"compiled  this repository holds a compiled model ({found.layout}){missing}; "
        f"it loads with {' and '.join(locks) or 'no version said'}"
    )
