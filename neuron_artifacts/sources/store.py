"""The local store as a source: the only one whose hit is the artifact itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_artifacts.sources.source import Kind, Lookup, SourceListing, SourceReport, Status
from neuron_artifacts.sources.wording import count, describe_artifact, show_seconds
from neuron_artifacts.store import LocalStore

if TYPE_CHECKING:
    from neuron_artifacts.artifact import Manifest
    from neuron_artifacts.key import Difference
    from neuron_artifacts.plan import Decision, Nearest

_FOR_ITS_OWN_ONLY = "optimum"
"""Whose request is put to caches first: the store is asked only if it holds such an artifact,
because the key takes a toolchain and the model's whole description."""


class StoreSource:
    """Artifacts below ``--store``, and at ``--output``."""

    name = "store"
    kind: Kind = "store"
    distant = False

    def __init__(self, base: str) -> None:
        self._store = LocalStore(Path(base))

    def look_up(self, lookup: Lookup) -> list[SourceReport]:
        where = str(self._store.root)
        if lookup.spec.backend == _FOR_ITS_OWN_ONLY and not self._holds(_FOR_ITS_OWN_ONLY):
            reason = "it holds no artifact of this backend"
            return [SourceReport(self.name, self.kind, "absent", where, reason)]
        from neuron_artifacts.build import destination_of, look_up

        resolved = lookup.resolved
        destination = destination_of(lookup.spec, self._store, resolved.key.key, lookup.environ)
        decision = look_up(resolved, self._store, destination)
        return [report_decision(decision, self.name, self.kind, where, {"path": str(destination)})]

    def list_all(self, *, offline: bool) -> list[SourceListing]:
        del offline
        rows = tuple(artifact_row(path, found) for path, found in self._store.manifests())
        where = str(self._store.root)
        if not self._store.root.is_dir():
            return [SourceListing(self.name, self.kind, "absent", where, "there is no store")]
        return [
            SourceListing(self.name, self.kind, "listed", where, count(len(rows), "artifact"), rows)
        ]

    def _holds(self, backend: str) -> bool:
        return any(manifest.backend == backend for _, manifest in self._store.manifests())


def report_decision(
    decision: Decision, name: str, kind: Kind, where: str, facts: Mapping[str, Any]
) -> SourceReport:
    """A decision about a store as one report among others."""
    status: Status = {"hit": "hit", "miss": "miss"}.get(decision.action, "near")  # type: ignore[assignment]
    return SourceReport(
        name, kind, status, where, decision.reason, saves=_saves(decision),
        rows=({"key": decision.key, "path": str(decision.artifact)},) if decision.artifact else (),
        nearest=_nearest(decision.nearest) if decision.nearest else None,
        configuration=f"key {decision.key[:16]}", detail=decision,
        facts={"verdict": decision.action, **facts},
    )  # fmt: skip


def artifact_row(path: Path, manifest: Manifest) -> dict[str, Any]:
    """An artifact in a listing."""
    return {
        "key": manifest.key, "path": str(path), "backend": manifest.backend,
        "target": manifest.target, "model": manifest.model.get("name"),
        "configuration": describe_artifact(manifest.neuron_config),
        "bytes": manifest.total_bytes, "created": manifest.created,
    }  # fmt: skip


def _saves(decision: Decision) -> str | None:
    """What need not be compiled, with the seconds it took when it was."""
    reused = [step for step in decision.graphs if step.reused]
    if not reused:
        return None
    spent = sum(step.entry.seconds for step in reused if step.entry)
    total = len(decision.graphs)
    what = f"all {total} graphs" if len(reused) == total else f"{len(reused)} of {total} graphs"
    return f"{what} ({show_seconds(spent)} of compiling)" if spent else what


def _nearest(nearest: Nearest) -> dict[str, Any]:
    differences = [_difference(row) for row in nearest.differences]
    return {"key": nearest.key, "path": str(nearest.path), "differences": differences}


def _difference(row: Difference) -> dict[str, Any]:
    from neuron_artifacts.key import ABSENT

    return {
        "field": row.field,
        "asked": None if row.right is ABSENT else row.right,
        "cached": None if row.left is ABSENT else row.left,
    }
