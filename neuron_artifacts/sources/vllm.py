"""vllm-neuron's compile cache as a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from neuron_artifacts.compile_caches import vllm_neuron
from neuron_artifacts.compile_caches.vllm_neuron import CacheEntry
from neuron_artifacts.sources.source import Kind, Lookup, SourceListing, SourceReport
from neuron_artifacts.sources.wording import count

_REMEDIES = {
    "failed": "the next start compiles it again",
    "incomplete": "the next start compiles it again",
    "corrupt": "loading it raises an error: remove the folder",
    "locked": "wait until the compile has ended",
}


class VllmSource:
    """What vllm-neuron compiled on this machine."""

    name = "vllm-neuron-cache"
    kind: Kind = "vllm-neuron-cache"
    distant = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._location = vllm_neuron.locate_cache(environ)

    def look_up(self, lookup: Lookup) -> list[SourceReport]:
        del lookup  # nothing in a request names a traced graph
        found = self._read()
        if found is None:
            return [SourceReport(self.name, self.kind, "absent", self._location.url, self._absent)]
        entries, facts = found
        done = sum(entry.state == "complete" for entry in entries)
        rows = tuple(_summarise(entries))
        if not done:
            reason = "it has no complete graph"
            return [SourceReport(
                self.name, self.kind, "miss", self._location.url, reason, rows, facts=facts
            )]  # fmt: skip
        return [SourceReport(
            self.name, self.kind, "unknown", self._location.url,
            f"{count(done, 'complete graph')}; whether yours are among them only a trace can tell",
            rows, configuration=count(done, "graph"), facts=facts,
            saves="the graphs that a trace finds there",
        )]  # fmt: skip

    def list_all(self, *, offline: bool) -> list[SourceListing]:
        del offline
        found, where = self._read(), self._location.url
        if found is None:
            return [SourceListing(self.name, self.kind, "absent", where, self._absent)]
        entries, facts = found
        reason = count(len(entries), "graph")
        rows = tuple(_summarise(entries))
        return [SourceListing(self.name, self.kind, "listed", where, reason, rows, facts)]

    @property
    def _absent(self) -> str:
        return f"there is no such folder ({self._location.origin})"

    def _read(self) -> tuple[Sequence[CacheEntry], dict[str, Any]] | None:
        path = self._location.path
        if path is None or not path.is_dir():
            return None
        entries = vllm_neuron.read_entries(path)
        hurt = [entry for entry in entries if entry.state != "complete"]
        problems = [
            {"path": str(e.path), "state": e.state, "reason": e.problem,
             "remedy": _REMEDIES[e.state]}
            for e in hurt
        ]  # fmt: skip
        return entries, {"problems": problems}


def _summarise(entries: Sequence[CacheEntry]) -> list[dict[str, Any]]:
    """Counts and bytes for each target."""
    rows: list[dict[str, Any]] = []
    for target in sorted({entry.target or "" for entry in entries}):
        members = [entry for entry in entries if (entry.target or "") == target]
        states = Counter(entry.state for entry in members)
        counts: dict[str, int] = {state: states[state] for state in vllm_neuron.STATES}
        size = sum(entry.size for entry in members)
        rows.append({"target": target or None, **counts, "bytes": size})
    return rows
