"""``cache-lookup --backend optimum``: the Hugging Face Neuron cache, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.run import Result, run
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA


@pytest.fixture
def hub() -> Iterator[CacheHub]:
    with CacheHub() as served:
        cache = Cache()
        cache.add("0.4.5", "llama", "org/llama", batch_size=4, sequence_length=4096)
        served.commit(REPO, cache.files)
        yield served


def ask(hub: CacheHub, place: Path, *flags: str, backend: str | None = "optimum") -> Result:
    named = ("--backend", backend) if backend else ()
    (place / "model").mkdir(exist_ok=True)
    (place / "model" / "config.json").write_text(json.dumps(LLAMA))
    return run(
        "cache-lookup", "model", *named, "--cache-repo", REPO, *flags, cwd=place,
        HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(place / "hf"),
        NEURON_ARTIFACTS_CACHE=str(place / "cache"),
    )  # fmt: skip


def test_a_bare_model_lists_what_is_cached(hub: CacheHub, tmp_path: Path) -> None:
    result = ask(hub, tmp_path, "--json")
    (source,) = result.data["sources"]
    assert (result.code, source["source"], source["status"]) == (0, REPO, "hit")
    assert [(row["batch_size"], row["model_ids"]) for row in source["rows"]] == [(4, ["org/llama"])]


def test_a_smaller_request_is_near_and_exits_with_3(hub: CacheHub, tmp_path: Path) -> None:
    result = ask(hub, tmp_path, "--batch-size", "2", "--json")
    (source,) = result.data["sources"]
    assert (result.code, source["status"]) == (3, "near")
    assert source["nearest"]["sufficient"]["batch_size"] == 4
    text = ask(hub, tmp_path, "--batch-size", "2").out
    assert "batch_size 4 instead of 2" in text
    assert "hint, not proof" in text


def test_its_options_ask_it_unless_another_backend_is_named(hub: CacheHub, tmp_path: Path) -> None:
    result = ask(hub, tmp_path, "--json", backend=None)
    assert (result.code, result.data["sources"][0]["source"]) == (0, REPO)
    refused = ask(hub, tmp_path, backend="cpu")
    assert refused.code == 2
    assert "--backend optimum" in refused.err
