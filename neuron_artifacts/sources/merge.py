"""Ask several sources one question, and lay their answers side by side, the nearest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from neuron_artifacts.errors import NeuronArtifactsError, UsageError
from neuron_artifacts.events import Note
from neuron_artifacts.neuron_cache import CacheOptions, CacheRequest, PreExported, SourceOutcome
from neuron_artifacts.neuron_cache.client import in_parallel
from neuron_artifacts.sources.hub import HubSource
from neuron_artifacts.sources.persistent import PersistentSource
from neuron_artifacts.sources.source import Lookup, Source, SourceListing, SourceReport
from neuron_artifacts.sources.store import StoreSource
from neuron_artifacts.sources.vllm import VllmSource

T = TypeVar("T")

SERVED_BY: Mapping[str, tuple[str, ...]] = {
    "cpu": ("store", "remotes"),
    "nxdi": ("store", "neuron-cache", "remotes"),
    "transformers-neuronx": ("store", "neuron-cache", "remotes"),
    "vllm-neuron": ("store", "vllm-neuron-cache", "remotes"),
    "optimum": ("store", "neuron-cache", "remotes", "hf"),
}
"""The sources whose graphs a backend can use: those asked unless others are named."""

REMOTES = "remotes"
"""Names every configured remote at once."""


@dataclass(frozen=True)
class LookupResult:
    """The answers, nearest first; ``absent`` are the places that there are not.

    ``request`` and ``pre_exported`` are what the Neuron caches were asked, and whether the model
    is a compiled one; ``None`` where no such cache was asked.
    """

    reports: tuple[SourceReport, ...]
    absent: tuple[SourceReport, ...]
    request: CacheRequest | None = None
    pre_exported: PreExported | None = None

    @property
    def found(self) -> bool:
        """Whether some source has exactly what was asked for."""
        return any(report.status == "hit" and report.usable for report in self.reports)


def choose_sources(
    backend: str | None,
    *,
    store: str,
    environ: Mapping[str, str],
    options: CacheOptions,
    remotes: Sequence[Source] = (),
    names: Sequence[str] = (),
    every: bool = False,
) -> list[Source]:
    """The sources to ask, nearest first: those named, or those that serve the backend.

    Without a backend, or with ``every``, all of them. ``remotes`` are those configured.

    Raises
    ------
    UsageError
        A name that no source has.
    """
    known: list[Source] = [
        StoreSource(store),
        PersistentSource(environ),
        VllmSource(environ),
        *remotes,
        HubSource(options, usable=backend in (None, "optimum") or "hf" in names),
    ]
    unknown = set(names) - {source.name for source in known} - {REMOTES}
    if unknown:
        raise UsageError(
            f"no source is called {', '.join(sorted(unknown))}",
            hint=f"there are {', '.join(source.name for source in known)} and {REMOTES}",
        )
    if REMOTES in names and not remotes:
        raise UsageError("no remote is configured", hint="neuron-artifacts remote add NAME URL")
    serving = SERVED_BY.get(backend or "", ("store", REMOTES))
    wanted = names or (None if every or backend is None else serving)
    return [source for source in known if wanted is None or _is_wanted(source, wanted)]


def look_up_everywhere(lookup: Lookup, sources: Sequence[Source]) -> LookupResult:
    """Ask every source; one that fails is a row of its own.

    Raises
    ------
    UsageError
        The request itself is wrong.
    NeuronArtifactsError
        Every source that is there failed: the first failure.
    """
    answers = _ask(sources, lambda source: source.look_up(lookup))
    reports: list[SourceReport] = []
    for source, answer in zip(sources, answers, strict=True):
        reports += answer if isinstance(answer, Sequence) else [_failed(source, answer)]
    absent = tuple(report for report in reports if report.status == "absent")
    there = tuple(report for report in reports if report.status != "absent")
    errors = [answer for answer in answers if isinstance(answer, NeuronArtifactsError)]
    if errors and all(report.status == "error" for report in there):
        raise errors[0]
    if not any(isinstance(report.detail, SourceOutcome) for report in there):
        return LookupResult(there, absent)
    return LookupResult(there, absent, lookup.inquiry.request, _find_pre_exported(lookup, there))


def list_everywhere(sources: Sequence[Source], *, offline: bool) -> list[SourceListing]:
    """What every source holds; one that fails is a row of its own.

    Raises
    ------
    NeuronArtifactsError
        The only source asked failed.
    """
    answers = _ask(sources, lambda source: source.list_all(offline=offline))
    listings: list[SourceListing] = []
    for source, answer in zip(sources, answers, strict=True):
        if isinstance(answer, Sequence):
            listings += answer
        elif len(sources) == 1:
            raise answer
        else:
            listings.append(
                SourceListing(source.name, source.kind, "error", source.name, answer.message)
            )
    return listings


def _ask(
    sources: Sequence[Source], ask: Callable[[Source], Sequence[T]]
) -> list[Sequence[T] | NeuronArtifactsError]:
    """Near sources in turn, since they share what they derive; distant ones at once."""

    def attempt(source: Source) -> Sequence[T] | NeuronArtifactsError:
        try:
            return ask(source)
        except UsageError:
            raise
        except NeuronArtifactsError as error:
            return error

    near = {id(source): attempt(source) for source in sources if not source.distant}
    distant = [source for source in sources if source.distant]
    far = dict(zip(map(id, distant), in_parallel(attempt, distant), strict=True))
    return [{**near, **far}[id(source)] for source in sources]


def _failed(source: Source, error: NeuronArtifactsError) -> SourceReport:
    facts: dict[str, Any] = {"error": error.message, "hint": error.hint}
    return SourceReport(source.name, source.kind, "error", source.name, error.message, facts=facts)


def _is_wanted(source: Source, wanted: Sequence[str]) -> bool:
    return source.name in wanted or (source.kind == "remote" and REMOTES in wanted)


def _find_pre_exported(lookup: Lookup, reports: Sequence[SourceReport]) -> PreExported | None:
    outcomes = [r.detail for r in reports if isinstance(r.detail, SourceOutcome)]
    try:
        return lookup.inquiry.find_pre_exported(outcomes)
    except NeuronArtifactsError as error:
        lookup.observe(Note(f"whether the model is compiled already is unknown: {error.message}"))
        return None
