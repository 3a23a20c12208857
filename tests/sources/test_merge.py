"""Which sources are asked, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from neuron_artifacts.errors import HubError, NeuronArtifactsError, SpecError, UsageError
from neuron_artifacts.neuron_cache import CacheOptions
from neuron_artifacts.sources import (
    Lookup,
    Source,
    SourceListing,
    SourceReport,
    choose_sources,
    list_everywhere,
    look_up_everywhere,
)
from neuron_artifacts.sources.source import Status
from neuron_artifacts.spec import resolve_spec

LOOKUP = Lookup(resolve_spec({"model": "org/x"}, environ={}), environ={})


@dataclass
class Answering:
    """A source that gives a report, or fails."""

    name: str
    answer: Status | NeuronArtifactsError
    distant: bool = False
    usable: bool = True
    kind: Any = "store"
    asked: int = field(default=0)

    def look_up(self, lookup: Lookup) -> Sequence[SourceReport]:
        self.asked += 1
        if isinstance(self.answer, NeuronArtifactsError):
            raise self.answer
        return [SourceReport(self.name, self.kind, self.answer, "here", "so", usable=self.usable)]

    def list_all(self, *, offline: bool) -> Sequence[SourceListing]:
        if isinstance(self.answer, NeuronArtifactsError):
            raise self.answer
        return [SourceListing(self.name, self.kind, "listed", "here", "so")]


def names(sources: Sequence[Source]) -> list[str]:
    return [source.name for source in sources]


EVERY = ["store", "neuron-cache", "vllm-neuron-cache", "hf"]


@pytest.mark.parametrize(
    ("backend", "asked", "every", "expected"),
    [
        ("cpu", (), False, ["store"]),
        ("nxdi", (), False, ["store", "neuron-cache"]),
        ("transformers-neuronx", (), False, ["store", "neuron-cache"]),
        ("vllm-neuron", (), False, ["store", "vllm-neuron-cache"]),
        ("optimum", (), False, ["store", "neuron-cache", "hf"]),
        (None, (), False, EVERY),
        ("cpu", (), True, EVERY),
        ("cpu", ("hf", "store"), False, ["store", "hf"]),
        (None, ("neuron-cache",), False, ["neuron-cache"]),
    ],
)
def test_which_sources_are_asked(
    backend: str | None, asked: tuple[str, ...], every: bool, expected: list[str]
) -> None:
    sources = choose_sources(
        backend, store=".", environ={}, options=CacheOptions(), names=asked, every=every
    )
    assert names(sources) == expected


def test_an_unknown_source_is_usage() -> None:
    with pytest.raises(UsageError, match="hub") as caught:
        choose_sources("cpu", store=".", environ={}, options=CacheOptions(), names=["hub"])
    assert "hf" in str(caught.value.hint)


def test_remotes_come_before_the_hub_and_may_be_named() -> None:
    remotes = [Answering("team", "hit", kind="remote"), Answering("ci", "hit", kind="remote")]

    def choose(backend: str | None, *asked: str) -> list[str]:
        return names(choose_sources(
            backend, store=".", environ={}, options=CacheOptions(), remotes=remotes, names=asked
        ))  # fmt: skip

    assert choose("cpu") == ["store", "team", "ci"]
    assert choose(None)[-3:] == ["team", "ci", "hf"]
    assert choose("cpu", "ci") == ["ci"]
    assert choose("cpu", "remotes", "store") == ["store", "team", "ci"]
    with pytest.raises(UsageError, match="no remote is configured"):
        choose_sources("cpu", store=".", environ={}, options=CacheOptions(), names=["remotes"])


def test_answers_keep_the_order_of_sources_whatever_is_faster() -> None:
    sources = [Answering("a", "miss", distant=True), Answering("b", "near"),
               Answering("c", "hit", distant=True), Answering("d", "absent")]  # fmt: skip
    found = look_up_everywhere(LOOKUP, sources)
    assert [r.source for r in found.reports] == ["a", "b", "c"]
    assert [r.source for r in found.absent] == ["d"]
    assert found.found


@pytest.mark.parametrize("status", ["near", "other-release", "miss", "unknown"])
def test_only_a_hit_is_one(status: Status) -> None:
    assert not look_up_everywhere(LOOKUP, [Answering("a", status)]).found


def test_a_hit_that_this_backend_cannot_use_does_not_count() -> None:
    assert not look_up_everywhere(LOOKUP, [Answering("a", "hit", usable=False)]).found


@pytest.mark.parametrize("distant", [True, False])
def test_a_source_that_fails_is_a_row_beside_others(distant: bool) -> None:
    failing = Answering("bad", HubError("no answer", hint="wait"), distant=distant)
    found = look_up_everywhere(LOOKUP, [failing, Answering("good", "hit")])
    assert [(r.source, r.status) for r in found.reports] == [("bad", "error"), ("good", "hit")]
    assert found.reports[0].document()["error"] == "no answer"
    assert found.found


def test_where_all_fail_the_first_failure_is_told() -> None:
    with pytest.raises(HubError, match="one"):
        look_up_everywhere(LOOKUP, [Answering("a", HubError("one")), Answering("b", "absent"),
                                    Answering("c", HubError("two"), distant=True)])  # fmt: skip


def test_a_wrong_request_is_told_at_once() -> None:
    last = Answering("b", "hit")
    with pytest.raises(SpecError):
        look_up_everywhere(LOOKUP, [Answering("a", SpecError("batch_size")), last])
    assert not last.asked


def test_listings() -> None:
    failing = Answering("bad", HubError("no answer"), distant=True)
    found = list_everywhere([Answering("good", "hit"), failing], offline=False)
    assert [(x.source, x.status) for x in found] == [("good", "listed"), ("bad", "error")]
    with pytest.raises(HubError):
        list_everywhere([failing], offline=False)
