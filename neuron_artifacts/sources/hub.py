"""The Hugging Face Neuron cache as a source: a report for each of its repositories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.neuron_cache import (
    CacheOptions,
    CacheRepository,
    Hub,
    SourceOutcome,
    default_repositories,
)
from neuron_artifacts.neuron_cache.listing import RegistrySummary, summarise
from neuron_artifacts.sources.source import Kind, Lookup, SourceListing, SourceReport
from neuron_artifacts.sources.wording import count

_REASONS = {
    "near": "this architecture is cached in other configurations",
    "other-release": "only other releases have it; same compiler, so probably reusable",
    "miss": "nothing of this architecture is cached",
}
_SAVES = {
    "other-release": "probably the compile, with that release",
    "near": "the compile, if you ask for the nearest instead",
}


class HubSource:
    """Cache repositories of a hub, asked in their order."""

    name = "hf"
    kind: Kind = "hf"
    distant = True

    def __init__(self, options: CacheOptions, *, usable: bool) -> None:
        self._options = options
        self._usable = usable

    def look_up(self, lookup: Lookup) -> list[SourceReport]:
        outcomes = lookup.inquiry.ask_repositories()
        return [report_outcome(o, self.kind, _url(o), usable=self._usable) for o in outcomes]

    def list_all(self, *, offline: bool) -> list[SourceListing]:
        hub = Hub(offline=offline)
        repos = self._options.repos or default_repositories()
        return [self._list(repo_id, hub) for repo_id in repos]

    def _list(self, repo_id: str, hub: Hub) -> SourceListing:
        options = self._options
        try:
            found = summarise(
                CacheRepository(repo_id, hub), release=options.release, compiler=options.compiler
            )
        except NeuronArtifactsError as error:
            return SourceListing(repo_id, self.kind, "error", repo_id, error.message)
        body = found.document()
        rows = tuple(body.pop("rows"))
        return SourceListing(repo_id, self.kind, "listed", repo_id, _describe(found), rows, body)


def report_outcome(
    outcome: SourceOutcome,
    kind: Kind,
    where: str,
    *,
    usable: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> SourceReport:
    """What the registry of one cache says, as one report among others."""
    body = outcome.document()
    rows, nearest = tuple(body.pop("rows")), body.pop("nearest")
    del body["source"], body["status"]
    return SourceReport(
        outcome.source, kind, outcome.status, where, _reason(outcome), rows, nearest,
        configuration=_configuration(outcome), saves=_saves(outcome),
        usable=usable and not _is_disproved(outcome),
        facts={**body, **(facts or {})}, detail=outcome,
    )  # fmt: skip


def _reason(outcome: SourceOutcome) -> str:
    if outcome.status == "hit":
        missing = ", but the graphs are missing" if _is_disproved(outcome) else ""
        return count(len(outcome.rows), "cached configuration") + missing
    return _REASONS.get(outcome.status) or outcome.error or "it did not answer"


def _configuration(outcome: SourceOutcome) -> str | None:
    if outcome.rows:
        more = f" and {len(outcome.rows) - 1} more" if len(outcome.rows) > 1 else ""
        return outcome.rows[0].summary() + more
    nearest = outcome.nearest
    several = (nearest.sufficient, *nearest.other_release, nearest.below, *nearest.other_target)
    return next((near.summary() for near in several if near), None)


def _saves(outcome: SourceOutcome) -> str | None:
    if _is_disproved(outcome):
        return None
    if outcome.status == "hit":
        proved = any(row.proved for row in outcome.rows)
        return "the compile" if proved else "the compile, if a trace asks for the same graphs"
    return _SAVES.get(outcome.status)


def _is_disproved(outcome: SourceOutcome) -> bool:
    """Whether it was looked for the graphs of every row, and none has them."""
    return bool(outcome.rows) and all(row.proved is False for row in outcome.rows)


def _url(outcome: SourceOutcome) -> str:
    return f"hf://{outcome.source}"


def _describe(found: RegistrySummary) -> str:
    entries = sum(models.entries for models in found.models)
    if not found.release:
        return "no registry"
    return f"{count(entries, 'configuration')} of optimum-neuron {found.release}"
