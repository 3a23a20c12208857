"""The local persistent Neuron cache as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuron_artifacts.compile_caches.persistent import (
    CacheLocation,
    Module,
    locate_cache,
    read_modules,
    summarise,
)
from neuron_artifacts.neuron_cache import registry
from neuron_artifacts.neuron_cache.folder import FolderRepository
from neuron_artifacts.neuron_cache.listing import summarise as summarise_registry
from neuron_artifacts.sources.hub import report_outcome
from neuron_artifacts.sources.source import Kind, Lookup, SourceListing, SourceReport
from neuron_artifacts.sources.wording import count, describe_modules

_DISTANT = "another machine's cache is not looked at; compiles that are started here will use it"


class PersistentSource:
    """What libneuronxla compiled on this machine, and what optimum-neuron registered there."""

    name = "neuron-cache"
    kind: Kind = "neuron-cache"
    distant = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._location = locate_cache(environ)

    def look_up(self, lookup: Lookup) -> list[SourceReport]:
        root = self._root()
        if root is None:
            absent = _absent(self._location)
            return [SourceReport(self.name, self.kind, "absent", self._location.url, absent)]
        modules = read_modules(root)
        facts = _module_facts(modules)
        if lookup.spec.backend == "optimum":
            outcome = lookup.inquiry.ask_folder(root, self.name)
            if outcome and outcome.status != "miss":
                return [report_outcome(outcome, self.kind, str(root), facts=facts)]
        return [self._report_modules(_fitting(modules, lookup), str(root), facts)]

    def list_all(self, *, offline: bool) -> list[SourceListing]:
        del offline
        root, where = self._root(), self._location.url
        if root is None:
            reason = _absent(self._location)
            return [SourceListing(self.name, self.kind, "absent", where, reason)]
        modules = read_modules(root)
        facts = _module_facts(modules)
        folder = FolderRepository(root)
        if folder.has_registry():
            facts["registry"] = summarise_registry(folder).document()
        rows = tuple(summarise(modules))
        reason = describe_modules(rows)
        return [SourceListing(self.name, self.kind, "listed", where, reason, rows, facts)]

    def _report_modules(
        self, modules: Sequence[Module], where: str, facts: Mapping[str, Any]
    ) -> SourceReport:
        rows = tuple(summarise(modules))
        done = sum(row["done"] for row in rows)
        if not done:
            reason = "no finished graph for this compiler and target"
            return SourceReport(self.name, self.kind, "miss", where, reason, rows, facts=facts)
        return SourceReport(
            self.name, self.kind, "unknown", where,
            f"{count(done, 'finished graph')}; whether yours are among them only a trace can tell",
            rows, configuration=describe_modules(rows), facts=facts,
            saves="the graphs that a trace finds there",
        )  # fmt: skip

    def _root(self) -> Path | None:
        path = self._location.path
        return path if path and path.is_dir() else None


def _absent(location: CacheLocation) -> str:
    if location.path is None:
        return f"{_DISTANT} ({location.origin})"
    return f"there is no such folder ({location.origin})"


def _fitting(modules: Sequence[Module], lookup: Lookup) -> list[Module]:
    """Those that a compile for this request could use, as far as is known."""
    compiler = (lookup.usable.compiler or "").removeprefix(registry.COMPILER_PREFIX)
    asked = lookup.spec.origins.get("target") != "default" and lookup.spec.target != "native"
    target = registry.normalise_target(lookup.spec.target) if asked else None
    return [
        module for module in modules
        if registry.covers(compiler, module.compiler)
        and (target is None or module.target is None
             or registry.normalise_target(module.target) == target)
    ]  # fmt: skip


def _module_facts(modules: Sequence[Module]) -> dict[str, Any]:
    """What stands in the way of compiles, with the remedy."""
    hurt = [module for module in modules if module.remedy]
    return {"problems": [
        {"path": str(m.path), "state": m.state, "reason": m.reason, "remedy": m.remedy}
        for m in hurt
    ]}  # fmt: skip
