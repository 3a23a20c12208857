"""Which files of a registry to read, and in which order.

A registry can hold thousands of entries. What a path says already rules most of them out: the
model type where an alias gives it away, and all entries below an architecture digest describe one
architecture, so that one of them speaks for the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from neuron_artifacts.neuron_cache.architecture import model_types
from neuron_artifacts.neuron_cache.client import in_parallel
from neuron_artifacts.neuron_cache.match import Subject, is_same_architecture
from neuron_artifacts.neuron_cache.outcome import Skipped
from neuron_artifacts.neuron_cache.registry import (
    COMPILER_PREFIX,
    REGISTRY,
    Entry,
    EntryPath,
    architecture_digest,
    compiler_folder,
    covers,
    is_development,
    parse_entry,
    parse_path,
    version_key,
)
from neuron_artifacts.neuron_cache.responses import Item


class Repository(Protocol):
    """What a registry lies in: a repository of a hub, or a folder of this machine.

    ``commit`` and ``age`` (seconds since the hub was last asked) are ``None`` where they say
    nothing.
    """

    @property
    def commit(self) -> str | None: ...

    @property
    def age(self) -> float | None: ...

    def list_folder(self, folder: str = "", *, recursive: bool = False) -> tuple[Item, ...]:
        """What lies in a folder; nothing if there is no such folder."""

    def read(self, items: Sequence[Item]) -> dict[str, bytes | str]:
        """The bytes of each file by its path, or in words why there are none."""

    def exist(self, paths: Sequence[str]) -> frozenset[str] | None:
        """Which of these files and folders there are; ``None`` if that cannot be told now."""


@dataclass
class Registry:
    """The part of a repository's registry that a lookup may use.

    ``files`` holds every entry of the usable compilers by its path, ``foreign`` JSON files that
    lie where no entry can.
    """

    release: str | None
    compilers: tuple[str, ...]
    files: dict[EntryPath, Item] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    def usable(self) -> list[EntryPath]:
        return [at for at in self.files if at.release == self.release]

    def other(self) -> list[EntryPath]:
        return [at for at in self.files if at.release != self.release]


def open_registry(repository: Repository, release: str | None, compiler: str | None) -> Registry:
    """Find the usable release and list the registries of its compiler.

    Without a release, compilers are listed from the newest on until one has a release in it that
    is no development version; without any, the newest development version counts.
    """
    wanted = (compiler or "").removeprefix(COMPILER_PREFIX)
    folders = [item.path for item in repository.list_folder() if item.folder]
    versions = {c: f for f in folders if (c := compiler_folder(f)) and covers(wanted, c)}
    newest = sorted(versions, key=version_key, reverse=True)
    if release:
        return _open_release(repository, release, newest)
    fallback: Registry | None = None
    while newest:
        same = [c for c in newest if version_key(c)[:2] == version_key(newest[0])[:2]]
        newest = newest[len(same) :]
        registry = _list_registries(repository, same)
        releases = {at.release for at in registry.files if not at.training}
        final = [name for name in releases if not is_development(name)]
        registry.release = max(final or releases, key=version_key, default=None)
        if final:
            return _narrow(registry)
        if releases and fallback is None:
            fallback = registry
    return _narrow(fallback) if fallback else Registry(None, tuple(versions))


def _open_release(repository: Repository, release: str, compilers: list[str]) -> Registry:
    """The registries that hold a given release; else those of the newest compiler."""
    listings = in_parallel(
        lambda c: repository.list_folder(f"{COMPILER_PREFIX}{c}/{REGISTRY}"), compilers
    )
    holding = [
        compiler for compiler, items in zip(compilers, listings, strict=True)
        if any(item.path.endswith(f"/{release}") for item in items)
    ]  # fmt: skip
    registry = _list_registries(repository, holding or compilers[:1])
    registry.release = release
    return registry


def _list_registries(repository: Repository, compilers: Sequence[str]) -> Registry:
    registry = Registry(None, tuple(compilers))
    listings = in_parallel(
        lambda c: repository.list_folder(f"{COMPILER_PREFIX}{c}/{REGISTRY}", recursive=True),
        compilers,
    )
    for item in (item for listing in listings for item in listing if not item.folder):
        at = parse_path(item.path)
        if at:
            registry.files[at] = item
        elif item.path.endswith(".json"):
            registry.foreign.append(item.path)
    return registry


def _narrow(registry: Registry) -> Registry:
    """Keep the compilers that hold the usable release: builds of one version differ in a hash."""
    holding = {at.compiler for at in registry.usable()}
    registry.compilers = tuple(c for c in registry.compilers if c in holding)
    registry.files = {at: i for at, i in registry.files.items() if at.compiler in holding}
    return registry


class Reader:
    """Reads entries once each, and remembers what could not be read."""

    def __init__(self, repository: Repository, registry: Registry) -> None:
        self.skipped: list[Skipped] = []
        self._repository = repository
        self._files = registry.files
        # An alias is a copy of the entry of the same name below a digest: it names the model.
        self._named: dict[tuple[str, str, str], list[EntryPath]] = defaultdict(list)
        for at in registry.files:
            if at.model_type:
                self._named[_name(at)].append(at)

    def read(self, paths: Iterable[EntryPath]) -> list[Entry]:
        """All of these entries, each once whatever number of names it has."""
        first: dict[tuple[str, ...], EntryPath] = {}
        for at in sorted(paths, key=lambda at: (at.digest is None, at.path)):
            first.setdefault(self._identity(at), at)
        data = self._repository.read([self._files[at] for at in first.values()])
        entries = (self._parse(at, data[at.path]) for at in first.values())
        return [entry for entry in entries if entry]

    def read_for(self, subject: Subject, paths: Iterable[EntryPath]) -> list[Entry]:
        """The entries that may be for a model."""
        types = model_types(subject.config)
        named: list[EntryPath] = []
        folders: dict[tuple[str, str, str], list[EntryPath]] = defaultdict(list)
        for at in (at for at in paths if not at.training):
            if at.digest:
                folders[at.compiler, at.release, at.digest].append(at)
            elif at.model_type in types:
                named.append(at)
        told = [(group, self._types(group)) for group in folders.values()]
        groups = [group for group, known in told if not known or known & types]
        below = {self._identity(at) for group in folders.values() for at in group}
        entries = self.read(at for at in named if self._identity(at) not in below)
        return [*entries, *self._read_groups(subject, groups)]

    def _identity(self, at: EntryPath) -> tuple[str, ...]:
        return (*_name(at), self._files[at].oid)

    def _types(self, group: Sequence[EntryPath]) -> set[str]:
        """The model types of a digest folder, as far as aliases tell."""
        aliases = (alias for at in group for alias in self._named[_name(at)])
        return {alias.model_type for alias in aliases if alias.model_type}

    def _read_groups(self, subject: Subject, groups: Sequence[list[EntryPath]]) -> list[Entry]:
        """One entry of each folder first, and the rest of those that match.

        A folder that an alias of the model points to is read at once: it will match. So is one
        whose first entry belongs elsewhere, for that one says nothing of the rest.
        """
        entries: list[Entry] = []
        waiting = [sorted(group, key=lambda at: at.path) for group in groups]
        while waiting:
            asked = {at for group in waiting for at in self._probes(subject, group)}
            found = {entry.at: entry for entry in self.read(asked)}
            speaking = [(next((at for at in g if at in found), None), g) for g in waiting]
            matching = [
                group for at, group in speaking
                if at and (_is_stray(found[at]) or _speaks_for(subject, found[at]))
            ]  # fmt: skip
            entries += [found[at] for group in matching for at in group if at in found]
            entries += self.read(at for group in matching for at in group if at not in asked)
            # A probe that could not be read says nothing of its folder: the next one is asked.
            mute = ([at for at in g if at not in asked] for at, g in speaking if at is None)
            waiting = [group for group in mute if group]
        return entries

    def _probes(self, subject: Subject, group: list[EntryPath]) -> list[EntryPath]:
        named = subject.model_id is not None and any(
            alias.model_id == subject.model_id for at in group for alias in self._named[_name(at)]
        )
        return group if named else group[:1]

    def _parse(self, at: EntryPath, data: bytes | str) -> Entry | None:
        try:
            if isinstance(data, str):
                raise ValueError(data)
            aliases = tuple(str(named.model_id) for named in self._named[_name(at)])
            return parse_entry(at, data, aliases)
        except ValueError as error:
            self.skipped.append(Skipped(at.path, str(error)))
            return None


def _speaks_for(subject: Subject, probe: Entry) -> bool:
    """Whether more of a probe's folder is worth reading.

    optimum-neuron 0.4.5 computes the digest of a pipeline over nothing, so that pipelines of every
    architecture lie below one.
    """
    return probe.kind == "pipeline" or is_same_architecture(subject, probe)


def _is_stray(probe: Entry) -> bool:
    """Whether an entry lies below a digest that is not its architecture's."""
    return architecture_digest(probe) not in (None, probe.at.digest)


def _name(at: EntryPath) -> tuple[str, str, str]:
    return at.compiler, at.release, at.name
