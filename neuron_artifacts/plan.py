"""What to do about a request: a pure decision that ``compile`` carries out and others print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts.artifact import GraphEntry, Manifest, Status
from neuron_artifacts.backends.base import GraphTask, ResolvedSpec, WeightTask
from neuron_artifacts.key import Difference, diff_documents
from neuron_artifacts.store.failures import KnownFailure

Action = Literal["hit", "relink", "partial", "miss"]


@dataclass(frozen=True)
class Candidate:
    """An artifact with a readable manifest; ``bad_files`` are those that do not hold.

    Even a damaged artifact lends its sound files, so that only what must be is compiled again.
    """

    path: Path
    manifest: Manifest
    bad_files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Broken:
    """Something that lies where the artifact belongs and cannot be used."""

    path: Path
    status: Status
    problems: tuple[str, ...]


@dataclass(frozen=True)
class GraphStep:
    """Where one graph comes from: an existing artifact, or the compiler."""

    task: GraphTask
    source: Path | None
    source_key: str | None
    entry: GraphEntry | None
    sha256: str | None

    @property
    def reused(self) -> bool:
        return self.source is not None


@dataclass(frozen=True)
class WeightStep:
    """Where one weight file comes from: an existing artifact, or the checkpoint."""

    task: WeightTask
    source: Path | None
    sha256: str | None


@dataclass(frozen=True)
class Nearest:
    """The existing artifact that differs least, and in which fields."""

    path: Path
    key: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Decision:
    """All that ``compile`` will do; ``--dry-run``, ``cache-lookup`` and summaries print it."""

    action: Action
    key: str
    graphs: tuple[GraphStep, ...]
    weights: tuple[WeightStep, ...]
    artifact: Path | None
    broken: tuple[Broken, ...]
    nearest: Nearest | None
    forced: bool = False
    known_failure: KnownFailure | None = None

    @property
    def to_compile(self) -> tuple[GraphStep, ...]:
        return tuple(step for step in self.graphs if not step.reused)

    @property
    def reason(self) -> str:
        """One line for people."""
        total, fresh = len(self.graphs), len(self.to_compile)
        if self.forced:
            return f"asked to compile all {total} graphs again"
        return {
            "hit": "an artifact with this key exists and holds",
            "relink": f"all {total} graphs exist; only weights and model files are laid anew",
            "partial": f"{total - fresh} of {total} graphs exist, {fresh} must be compiled",
            "miss": f"none of the {total} graphs exists",
        }[self.action]


def decide(
    resolved: ResolvedSpec,
    candidates: Iterable[Candidate],
    broken: Iterable[Broken] = (),
    *,
    force: bool = False,
) -> Decision:
    """Choose between hit, relink, partial and miss.

    Parameters
    ----------
    candidates:
        Artifacts with a readable manifest, the preferred first.
    broken:
        What must be set aside, passed through for the report.
    force:
        Compile every graph even if all exist.
    """
    known = [c for c in candidates if c.manifest.backend == resolved.backend]
    key = resolved.key.key
    whole = [c for c in known if c.manifest.key == key and not c.bad_files]
    hit = whole[0] if whole and not force else None
    weights = _weight_steps(resolved.weights, known)
    graphs = _graph_steps(resolved.graphs, [] if force else known)
    fresh = sum(not step.reused for step in graphs)
    action: Action = (
        "hit" if hit else "relink" if not fresh else "partial" if fresh < len(graphs) else "miss"
    )
    return Decision(
        action, key, graphs, weights, hit.path if hit else None, tuple(broken),
        None if hit else _nearest(resolved, [c for c in known if c.manifest.key != key]), force,
    )  # fmt: skip


def _graph_steps(
    tasks: Iterable[GraphTask], candidates: Iterable[Candidate]
) -> tuple[GraphStep, ...]:
    found: dict[str, tuple[Candidate, GraphEntry, str]] = {}
    for candidate in candidates:
        digests = {file.path: file.sha256 for file in candidate.manifest.files}
        for entry in candidate.manifest.graphs:
            if entry.file not in candidate.bad_files:
                found.setdefault(entry.digest, (candidate, entry, digests[entry.file]))
    steps = []
    for task in tasks:
        if task.digest in found:
            candidate, entry, sha256 = found[task.digest]
            origin = entry.reused_from or candidate.manifest.key
            steps.append(GraphStep(task, candidate.path / entry.file, origin, entry, sha256))
        else:
            steps.append(GraphStep(task, None, None, None, None))
    return tuple(steps)


def _weight_steps(
    tasks: Iterable[WeightTask], candidates: Iterable[Candidate]
) -> tuple[WeightStep, ...]:
    found: dict[tuple[str, str | None], tuple[Path, str]] = {}
    for candidate in candidates:
        digests = {file.path: file.sha256 for file in candidate.manifest.files}
        for name, entry in _weight_entries(candidate.manifest):
            path = f"weights/{name}"
            if path in digests and path not in candidate.bad_files and "sha256" in entry:
                identity = (entry["sha256"], entry.get("stored_as"))
                found.setdefault(identity, (candidate.path / path, digests[path]))
    return tuple(WeightStep(task, *found.get(task.identity, (None, None))) for task in tasks)


def _weight_entries(manifest: Manifest) -> list[tuple[str, Mapping[str, str]]]:
    files = manifest.document["weights"].get("files")
    if not isinstance(files, dict):
        return []
    return [(name, entry) for name, entry in files.items() if isinstance(entry, dict)]


def _nearest(resolved: ResolvedSpec, candidates: Iterable[Candidate]) -> Nearest | None:
    def distance(candidate: Candidate) -> tuple[int, int]:
        digests = {entry.digest for entry in candidate.manifest.graphs}
        missing = sum(task.digest not in digests for task in resolved.graphs)
        rows = diff_documents(candidate.manifest.document, resolved.key.document)
        return missing, len(rows)

    ranked = sorted(candidates, key=distance)
    if not ranked:
        return None
    rows = diff_documents(ranked[0].manifest.document, resolved.key.document)
    return Nearest(ranked[0].path, ranked[0].manifest.key, tuple(rows))
