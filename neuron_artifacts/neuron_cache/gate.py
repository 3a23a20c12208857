"""Whether a vanilla model may be compiled: only what is cached compiles in minutes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from neuron_artifacts.errors import RefusedError
from neuron_artifacts.neuron_cache.inquiry import CacheAnswer
from neuron_artifacts.neuron_cache.outcome import Near, SourceOutcome


@dataclass(frozen=True)
class Admission:
    """Why a compile goes ahead, and which cache is expected to have its graphs."""

    reason: Literal["pre-exported", "cached", "allowed"]
    source: str | None = None


def may_compile(found: CacheAnswer, *, allow_compile: bool) -> Admission:
    """Admit a model that is compiled already or cached as asked, or any with ``allow_compile``.

    Raises
    ------
    RefusedError
        It would be compiled from scratch; the message names the nearest that is cached.
    """
    if found.pre_exported and found.pre_exported.complete is not False:
        return Admission("pre-exported")
    if found.hit:
        return Admission("cached", found.hit.source)
    if allow_compile:
        return Admission("allowed")
    asked = ", ".join(f"{name} {value}" for name, value in found.request.wanted().items())
    where = ", ".join(outcome.source for outcome in found.outcomes)
    raise RefusedError(
        f"no cache has this model compiled for {asked or 'anything'} (asked: {where})",
        hint=f"{_describe_nearest(found.outcomes)}; --allow-compile compiles it here",
    )


def _describe_nearest(outcomes: Sequence[SourceOutcome]) -> str:
    """In words what to ask for instead, or why the answer is not whole."""
    for outcome in outcomes:
        for word, near in _candidates(outcome):
            return f"{word}: {near.summary()}"
    failed = [outcome for outcome in outcomes if outcome.status == "error"]
    if failed:
        return f"{failed[0].source} could not be asked ({failed[0].error})"
    return "nothing of its architecture is cached"


def _candidates(outcome: SourceOutcome) -> Iterator[tuple[str, Near]]:
    nearest = outcome.nearest
    if nearest.sufficient:
        yield "cached is", nearest.sufficient
    yield from (("probably reusable is", near) for near in nearest.other_release)
    if nearest.below:
        yield "cached is", nearest.below
    yield from (("cached is", near) for near in nearest.other_target)
