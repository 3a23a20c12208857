"""How decisions, keys and artifacts read, as JSON and as text."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_artifacts.cli import _output

if TYPE_CHECKING:
    from neuron_artifacts.artifact import Manifest
    from neuron_artifacts.key import Difference
    from neuron_artifacts.plan import Decision
    from neuron_artifacts.spec import CompileSpec
    from neuron_artifacts.store.failures import KnownFailure

_LOG_LINES = 5


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as data; the same shape for ``compile`` and ``cache-lookup``."""
    nearest = decision.nearest
    return {
        "verdict": decision.action,
        "reason": decision.reason,
        "key": decision.key,
        "artifact": str(decision.artifact) if decision.artifact else None,
        "graphs": [
            {
                "phase": step.task.phase,
                "bucket": step.task.bucket,
                "digest": step.task.digest,
                "action": "reuse" if step.reused else "compile",
                "from": step.source_key,
            }
            for step in decision.graphs
        ],
        "weights": [
            {
                "file": step.task.source.name,
                "bytes": step.task.source.size,
                "action": "reuse" if step.source else "lay",
            }
            for step in decision.weights
        ],
        "broken": [
            {"path": str(b.path), "status": b.status, "problems": list(b.problems)}
            for b in decision.broken
        ],
        "known_failure": asdict(decision.known_failure) if decision.known_failure else None,
        "nearest": nearest
        and {
            "key": nearest.key,
            "path": str(nearest.path),
            "differences": [difference_json(row) for row in nearest.differences],
        },
    }


def difference_json(row: Difference) -> dict[str, Any]:
    from neuron_artifacts.key import ABSENT

    return {
        "field": row.field,
        "left": None if row.left is ABSENT else row.left,
        "right": None if row.right is ABSENT else row.right,
        "cost": row.cost,
    }


def difference_table(rows: list[Difference], left: str, right: str) -> str:
    """Fields side by side; digests of graphs only where nothing else says why they differ."""
    rows = [row for row in rows if not row.field.startswith("graphs.graphs.")] or rows
    shown = [(row.field, shorten(row.left), shorten(row.right), row.cost) for row in rows]
    return _output.table(("field", left, right, "cost"), shown)


def decision_text(decision: Decision) -> str:
    lines = [
        f"verdict   {_verdict(decision.action)}: {decision.reason}",
        f"key       {decision.key}",
    ]
    if decision.artifact:
        lines.append(f"artifact  {decision.artifact}")
    for broken in decision.broken:
        lines.append(f"broken    {broken.path} is {broken.status}: {broken.problems[0]}")
    if decision.known_failure:
        lines += _known_failure_lines(decision.known_failure)
    if decision.action == "hit":
        return "\n".join(lines)
    lines.append("")
    rows = [
        (
            s.task.phase,
            s.task.bucket,
            "reuse" if s.reused else "compile",
            (s.source_key or "-")[:12],
        )
        for s in decision.graphs
    ]
    lines.append(_output.table(("phase", "bucket", "action", "from"), rows))
    if decision.nearest:
        lines += ["", f"nearest   {decision.nearest.path}"]
        lines.append(difference_table(list(decision.nearest.differences), "there", "asked"))
    return "\n".join(lines)


def _known_failure_lines(failure: KnownFailure) -> list[str]:
    """Why it is not tried again, until when, and the end of the compiler's log."""
    log = [f"          | {line}" for line in failure.log.rstrip().splitlines()[-_LOG_LINES:]]
    head = f"known     {failure}; refused until {failure.until}, unless --retry is given"
    return [_output.printable(line, one_line=True) for line in (head, *log)]


def _verdict(action: str) -> str:
    colour = {"hit": "green", "miss": "yellow"}.get(action, "cyan")
    return _output.styled(action, colour, stream=sys.stdout)


def shorten(value: Any, width: int = 44) -> str:
    text = str(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def artifact_json(path: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "path": str(path),
        "key": manifest.key,
        "graphs_digest": manifest.graphs_digest,
        "weights_digest": manifest.weights_digest,
        "backend": manifest.backend,
        "target": manifest.target,
        "model": dict(manifest.model),
        "neuron_config": dict(manifest.neuron_config),
        "toolchain": dict(manifest.toolchain),
        "graphs": [vars(graph) for graph in manifest.graphs],
        "files": [vars(file) for file in manifest.files],
        "bytes": manifest.total_bytes,
        "serve": dict(manifest.serve),
        "created": manifest.created,
        "created_by": manifest.created_by,
    }


def serve_command(path: Path) -> str:
    """The command to copy after a build."""
    return f"neuron-artifacts serve --artifacts {shlex.quote(str(path))}"


def origins_table(spec: CompileSpec) -> str:
    rows = [(name, _plain(getattr(spec, name)), origin) for name, origin in spec.origins.items()]
    rows += [(name, value, "override_neuron_config") for name, value in spec.extra.items()]
    return _output.table(("option", "value", "origin"), rows)


def origins_json(spec: CompileSpec) -> dict[str, Any]:
    rows = {
        name: {"value": getattr(spec, name), "origin": origin}
        for name, origin in spec.origins.items()
    }
    extra = {n: {"value": v, "origin": "override_neuron_config"} for n, v in spec.extra.items()}
    return {**rows, **extra}


def _plain(value: Any) -> Any:
    return "(not set)" if value is None else value
