"""What a registry holds, told from its paths alone: no entry is read."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.neuron_cache.reading import Registry, Repository, open_registry
from neuron_artifacts.neuron_cache.registry import EntryPath


@dataclass(frozen=True)
class CachedModels:
    """The entries of one architecture, or of one model where nothing tells architectures.

    An alias may be missing, so ``model_type`` may be unknown and ``model_ids`` incomplete.
    """

    model_type: str | None
    model_ids: tuple[str, ...]
    compiler: str
    entries: int

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "model_type": self.model_type, "model_ids": list(self.model_ids),
            "neuronxcc_version": self.compiler, "entries": self.entries,
        }  # fmt: skip


@dataclass(frozen=True)
class RegistrySummary:
    """The usable release by architecture, and how many entries others have."""

    release: str | None
    compilers: tuple[str, ...]
    models: tuple[CachedModels, ...]
    other_releases: dict[str, int]
    commit: str | None = None
    age: float | None = None

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "release": self.release, "compilers": list(self.compilers),
            "rows": [models.document() for models in self.models],
            "other_releases": self.other_releases, "commit": self.commit,
            "age_seconds": self.age,
        }  # fmt: skip


def summarise(
    repository: Repository, *, release: str | None = None, compiler: str | None = None
) -> RegistrySummary:
    """List what one repository or folder holds.

    Raises
    ------
    NeuronArtifactsError
        It cannot be asked.
    """
    registry = open_registry(repository, release, compiler)
    others = Counter(at.release for at in _distinct(registry.other()))
    return RegistrySummary(
        release=registry.release, compilers=registry.compilers,
        models=_by_architecture(registry), other_releases=dict(sorted(others.items())),
        commit=repository.commit, age=repository.age,
    )  # fmt: skip


def _by_architecture(registry: Registry) -> tuple[CachedModels, ...]:
    usable = [at for at in registry.usable() if not at.training]
    aliases: dict[tuple[str, str], set[EntryPath]] = defaultdict(set)
    for at in usable:
        if at.model_id:
            aliases[at.compiler, at.name].add(at)
    groups: dict[tuple[str, ...], list[EntryPath]] = defaultdict(list)
    for at in _distinct(usable):
        place = at.digest or f"{at.model_type}/{at.model_id}"
        groups[at.compiler, place].append(at)
    rows = []
    for (compiler, _), members in groups.items():
        named = {alias for at in members for alias in aliases[compiler, at.name]}
        types = sorted({alias.model_type for alias in named if alias.model_type})
        ids = sorted({alias.model_id for alias in named if alias.model_id})
        rows.append(CachedModels(next(iter(types), None), tuple(ids), compiler, len(members)))
    return tuple(sorted(rows, key=lambda row: (row.model_type or "~", row.model_ids)))


def _distinct(paths: list[EntryPath]) -> list[EntryPath]:
    """Each entry once, below its digest where it lies there too."""
    first: dict[tuple[str, ...], EntryPath] = {}
    for at in sorted(paths, key=lambda at: (at.digest is None, at.path)):
        first.setdefault((at.compiler, at.release, at.name), at)
    return list(first.values())
