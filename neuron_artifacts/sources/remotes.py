"""Configured remote stores as sources: whole artifacts that a pull would bring here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.remote.config import read_remotes
from neuron_artifacts.sources.source import Kind, Lookup, Source, SourceListing, SourceReport
from neuron_artifacts.sources.store import artifact_row, report_decision
from neuron_artifacts.sources.wording import count

if TYPE_CHECKING:
    from neuron_artifacts.remote import RemoteStore

MOST_READ = 200
"""Manifests that are read to find the nearest: a store of thousands is not read whole."""
_AT_ONCE = 8


def configured_remotes(environ: Mapping[str, str]) -> list[Source]:
    """A source for each remote store that ``remote add`` has written down."""
    return [RemoteSource(name, url, environ) for name, url in read_remotes(environ).items()]


class RemoteSource:
    """One remote store, asked for a key first and for what is near it then."""

    kind: Kind = "remote"
    distant = True

    def __init__(self, name: str, url: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self._url, self._environ = url, environ

    def look_up(self, lookup: Lookup) -> Sequence[SourceReport]:
        if lookup.offline:
            return [self._absent("it is not asked offline")]
        from neuron_artifacts.plan import Candidate, decide

        resolved = lookup.resolved
        keys = self._remote.keys()
        wanted = [resolved.key.key] if resolved.key.key in keys else keys[:MOST_READ]
        found = self._read(wanted)
        # A remote artifact has no folder here; its key stands for one.
        candidates = [Candidate(Path(manifest.key), manifest) for manifest in found]
        decision = decide(resolved, candidates)
        facts = {"pull": f"neuron-artifacts pull {resolved.key.key} --from {self.name}"}
        hit = decision.action == "hit"
        return [
            report_decision(
                decision, self.name, self.kind, self._remote.url, facts if hit else {}
            )
        ]  # fmt: skip

    def list_all(self, *, offline: bool) -> Sequence[SourceListing]:
        if offline:
            return [SourceListing(self.name, self.kind, "absent", self._url, "not asked offline")]
        keys = self._remote.keys()
        rows = tuple(artifact_row(Path(m.key), m) for m in self._read(keys[:MOST_READ]))
        told = count(len(keys), "artifact")
        if len(keys) > MOST_READ:
            told += f", of which {MOST_READ} are listed"
        return [SourceListing(self.name, self.kind, "listed", self._remote.url, told, rows)]

    @cached_property
    def _remote(self) -> RemoteStore:
        from neuron_artifacts.remote import open_url

        return open_url(self._url, self._environ)

    def _read(self, keys: Sequence[str]) -> list[Manifest]:
        """Manifests that can be read; one that cannot is nobody's hit, and no other's trouble."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return [found for found in pool.map(self._read_one, keys) if found]

    def _read_one(self, key: str) -> Manifest | None:
        from neuron_artifacts.remote.pull import read_remote

        try:
            return read_remote(self._remote, key).artifact
        except NeuronArtifactsError:
            return None

    def _absent(self, reason: str) -> SourceReport:
        return SourceReport(self.name, self.kind, "absent", self._url, reason)
