"""From a command's options to what it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from neuron_artifacts.cli._sources import lookup_json, lookup_text
from neuron_artifacts.errors import UsageError
from neuron_artifacts.neuron_cache import CacheOptions, request_of
from neuron_artifacts.sources import Lookup, LookupResult, choose_sources, look_up_everywhere
from neuron_artifacts.spec import CompileSpec, resolve_spec
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import RELEASES, REPO, Cache
from tests.neuron_cache.model_configs import CLASSIFIER, LLAMA

ROW = {
    "batch_size", "sequence_length", "tp_degree", "dtype", "target", "model_ids", "revisions",
    "optimum_neuron_version", "neuronxcc_version",
}  # fmt: skip


def spec(model: str = "org/llama", **flags: Any) -> CompileSpec:
    return resolve_spec({"model": model, **flags}, environ={})


def look(asked: CompileSpec, *, offline: bool = False, **options: Any) -> LookupResult:
    chosen = CacheOptions(**options)
    sources = choose_sources("optimum", store="/none", environ={}, options=chosen, names=["hf"])
    return look_up_everywhere(Lookup(asked, environ={}, options=chosen, offline=offline), sources)


@pytest.fixture(autouse=True)
def endpoint(hub: CacheHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("CUSTOM_CACHE_REPO", REPO)


@pytest.fixture
def cache(hub: CacheHub) -> Cache:
    cache = Cache()
    for batch in (1, 8):
        cache.add("0.4.5", "llama", "org/llama", batch_size=batch)
    cache.add("0.4.5", "llama", "org/llama", target="trn2", batch_size=4)
    cache.add("0.4.4", "llama", "org/llama", batch_size=4)
    cache.add_traced("0.4.5", "classifier", "org/classifier", "text-classification",
                     static_sequence_length=128)  # fmt: skip
    hub.commit(REPO, cache.files)
    hub.commit("org/llama", {"config.json": json.dumps(LLAMA).encode()})
    hub.commit("org/classifier", {"config.json": json.dumps(CLASSIFIER).encode()})
    return cache


def test_only_options_that_were_set_are_asked_for() -> None:
    assert request_of(spec()).wanted() == {}
    assert request_of(spec(target="inf2")).wanted() == {"target": "trn1"}
    assert request_of(spec(target="native")).wanted() == {}
    for asked in (spec(), spec(target="native")):
        assert request_of(asked, host_target="inf2").wanted() == {"target": "trn1"}
    assert request_of(spec(target="trn2"), host_target="inf2").wanted() == {"target": "trn2"}
    override = {"continuous_batching": True, "fused_qkv": True}
    request = request_of(spec(batch_size="4", seq_len="4096", override_neuron_config=override))
    assert request.wanted() == {
        "batch_size": 4, "sequence_length": 4096, "continuous_batching": True,
        "speculation_length": 0, "fused_qkv": True,
    }  # fmt: skip
    drafted = request_of(spec(num_speculative_tokens="5", target="trn1"))
    assert drafted.wanted() == {"target": "trn1", "speculation_length": 5}
    with pytest.raises(UsageError, match="speculation_length must be a whole number"):
        request_of(spec(override_neuron_config={"speculation_length": "5"}))


@pytest.mark.usefixtures("cache")
def test_a_hit() -> None:
    found = look(spec(batch_size="8", tp_degree="8", target="inf2"))
    assert found.found
    body = json.loads(json.dumps(lookup_json(found)))
    [source] = body["sources"]
    assert (source["source"], source["status"]) == (REPO, "hit")
    assert source["rows"][0].keys() >= ROW
    assert source["rows"][0]["model_ids"] == ["org/llama"]
    assert source["rows"][0]["neuronxcc_version"] == RELEASES["0.4.5"][0]
    assert source["nearest"] == {
        "sufficient": None, "below": None, "other_target": [], "other_release": [],
    }  # fmt: skip
    text = lookup_text(found)
    assert "verdict   hit: 1 cached configuration" in text
    assert "a hint, not proof" in text


@pytest.mark.usefixtures("cache")
def test_near_tells_every_field_that_differs() -> None:
    found = look(spec(batch_size="4", tp_degree="8", target="trn1"))
    assert not found.found
    [source] = lookup_json(found)["sources"]
    assert (source["status"], source["rows"]) == ("near", [])
    nearest = source["nearest"]
    assert nearest["sufficient"]["batch_size"] == 8
    assert nearest["sufficient"]["differences"] == [
        {"field": "batch_size", "asked": 4, "cached": 8}
    ]
    assert nearest["below"]["batch_size"] == 1
    assert [row["target"] for row in nearest["other_target"]] == ["trn2"]
    assert [row["optimum_neuron_version"] for row in nearest["other_release"]] == ["0.4.4"]
    text = lookup_text(found)
    assert "batch_size 8 instead of 4" in text
    assert "target trn2 instead of trn1" in text
    assert "release 0.4.4: as asked" in text


@pytest.mark.usefixtures("cache")
def test_a_bare_model_lists_what_exists(hub: CacheHub) -> None:
    found = look(spec())
    assert found.found
    assert len(found.reports[0].rows) == 3
    # config.json, the commit, two listings, three entries; none to tell a compiled model apart
    assert len(hub.requests) == 7


@pytest.mark.usefixtures("cache")
def test_a_traced_row_keeps_its_own_names() -> None:
    found = look(spec("org/classifier", seq_len="128"), prove=True)
    [row] = lookup_json(found)["sources"][0]["rows"]
    assert (row["static_sequence_length"], row["proved"]) == (128, True)
    text = lookup_text(found)
    assert "static_sequence_length=128" in text
    assert "graphs present" in text


def test_a_traced_row_without_graphs_is_no_hit(hub: CacheHub, cache: Cache) -> None:
    cache.files = {name: data for name, data in cache.files.items() if "/MODULE_" not in name}
    hub.commit(REPO, cache.files)
    asked = spec("org/classifier", seq_len="128")
    assert look(asked).found
    proved = look(asked, prove=True)
    assert not proved.found
    assert "graphs are missing" in proved.reports[0].reason
    assert "graphs MISSING" in lookup_text(proved)


@pytest.mark.usefixtures("cache")
def test_a_compiled_model_is_named(hub: CacheHub) -> None:
    config = {**LLAMA, "vocab_size": 5}
    neuron = {"optimum_neuron_version": "0.4.5", "neuronxcc_version": "2.21.1"}
    hub.commit("org/compiled", {
        "config.json": json.dumps(config).encode(), "model.pt": b"graph",
        "neuron_config.json": json.dumps(neuron).encode(),
    })  # fmt: skip
    found = look(spec("org/compiled"))
    assert found.reports[0].status == "miss"
    assert lookup_json(found)["pre_exported"]["complete"] is True
    assert "it loads with optimum-neuron 0.4.5 and neuronx-cc 2.21.1" in lookup_text(found)


@pytest.mark.usefixtures("cache")
def test_offline_says_how_old_the_answer_is(hub: CacheHub) -> None:
    look(spec())
    asked = len(hub.requests)
    found = look(spec(), offline=True)
    assert len(hub.requests) == asked
    assert "offline   as the hub was" in lookup_text(found)
    assert lookup_json(found)["sources"][0]["age_seconds"] >= 0


@pytest.mark.usefixtures("cache")
def test_one_repository_of_several_may_fail() -> None:
    found = look(spec(), repos=("no/such", REPO))
    assert [source.status for source in found.reports] == ["error", "hit"]
    assert found.found
    assert "verdict   error: " in lookup_text(found)


def test_damage_is_counted(hub: CacheHub, cache: Cache) -> None:
    cache.files[f"{cache.registry('0.4.5')}/llama/org/llama/{'0' * 20}.json"] = b"{"
    hub.commit(REPO, cache.files)
    assert "skipped   1 file" in lookup_text(look(spec()))
