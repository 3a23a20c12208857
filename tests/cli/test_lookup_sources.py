"""``cache-lookup`` over all sources, as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.run import Result, run
from tests.compile_caches.caches import put_module
from tests.models import SMALL, copy_model
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import RELEASES, REPO, Cache
from tests.neuron_cache.model_configs import LLAMA
from tests.neuron_cache.test_folder import put

COMPILER = RELEASES["0.4.5"][0]
FLAGS = [f for n, v in SMALL.items() for f in (f"--{n.replace('_', '-')}", str(v))]
Ask = Callable[..., Result]


@pytest.fixture
def hub() -> Iterator[CacheHub]:
    with CacheHub() as served:
        cache = Cache()
        cache.add("0.4.5", "llama", "org/llama", batch_size=4)
        served.commit(REPO, cache.files)
        served.commit("org/llama", {"config.json": json.dumps(LLAMA).encode()})
        yield served


@pytest.fixture
def ask(hub: CacheHub, tmp_path: Path) -> Ask:
    def look(*arguments: object, **environ: str) -> Result:
        return run(
            "cache-lookup", *arguments, cwd=tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0",
            **{"HF_HOME": str(tmp_path / "hf"), "NEURON_ARTIFACTS_CACHE": str(tmp_path / "kept"),
               "CUSTOM_CACHE_REPO": REPO, "NEURON_COMPILE_CACHE_URL": str(tmp_path / "neuron"),
               "VLLM_CACHE_ROOT": str(tmp_path / "vllm"), **environ},
        )  # fmt: skip

    return look


def test_several_sources_make_one_table(ask: Ask, hub: CacheHub, tmp_path: Path) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama", batch_size=8)
    put(tmp_path / "neuron", cache)
    poisoned = put_module(tmp_path / "neuron", COMPILER, "a+1", "failed", log="out of memory\n")
    asked = ("org/llama", "--backend", "optimum", "--target", "inf2", "--batch-size", "4")
    text = ask(*asked)
    assert text.code == 0, text.err
    lines = text.out.splitlines()
    [heading] = [
        n for n, line in enumerate(lines) if line.startswith("source  ") and "saves" in line
    ]
    assert lines[heading + 1].split()[:2] == ["neuron-cache", "near"]
    assert lines[heading + 2].split()[:2] == [REPO, "hit"]
    assert f"failed    {poisoned}: out of memory" in text.out
    assert "rm -r" in text.out
    data = ask(*asked, "--json").data
    assert [(s["source"], s["status"]) for s in data["sources"]] == [
        ("neuron-cache", "near"), (REPO, "hit"),
    ]  # fmt: skip
    assert data["requested"]["target"] == "trn1"
    assert data["found"] is True
    assert [a["source"] for a in data["absent"]] == ["store"]


def test_the_hub_is_asked_only_where_its_graphs_are_of_use(
    ask: Ask, hub: CacheHub, tmp_path: Path
) -> None:
    model = copy_model(tmp_path / "model")
    assert ask(model, "--json").code == 3
    assert not hub.requests
    named = ask(model, "--source", "hf", "--json")
    assert [s["source"] for s in named.data["sources"]] == [REPO]
    assert hub.requests
    every = ask("org/llama", "--all-sources", "--backend", "optimum", "--json")
    assert {a["source"] for a in every.data["absent"]} == {
        "store", "neuron-cache", "vllm-neuron-cache",
    }  # fmt: skip
    assert every.code == 0


def test_a_hit_of_another_backend_does_not_count(ask: Ask, hub: CacheHub, tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    cache = Cache()
    cache.add_config("0.4.5", json.loads((model / "config.json").read_bytes()), "org/tiny",
                     batch_size=1, sequence_length=64)  # fmt: skip
    hub.commit(REPO, cache.files)
    result = ask(model, *FLAGS, "--all-sources", "--backend", "cpu", "--json")
    shown = [(s["kind"], s["status"], s["usable"]) for s in result.data["sources"]]
    assert shown == [("store", "miss", True), ("hf", "hit", False)]
    assert result.code == 3
    assert ask(model, "--source", "hf").code == 0
    any_backend = ask(model, *FLAGS, "--all-sources", "--json")
    assert (any_backend.code, any_backend.data["found"]) == (0, True)


def test_a_hub_that_is_gone_leaves_the_other_answers(
    ask: Ask, hub: CacheHub, tmp_path: Path
) -> None:
    model = copy_model(tmp_path / "model")
    assert run("compile", model, *FLAGS, cwd=tmp_path).code == 0
    hub.stop()
    result = ask(model, *FLAGS, "--all-sources", "--json")
    assert result.code == 0
    statuses = {s["kind"]: s["status"] for s in result.data["sources"]}
    assert statuses == {"store": "hit", "hf": "error"}
    assert "cannot be reached" in result.data["sources"][1]["error"]
    assert "all 3 graphs" in result.data["sources"][0]["saves"]
    alone = ask(model, "--source", "hf")
    assert alone.code == 1
    assert "cannot be reached" in alone.err


def test_without_a_model_everything_is_listed(ask: Ask, tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    assert run("compile", model, *FLAGS, cwd=tmp_path).code == 0
    put_module(tmp_path / "neuron", COMPILER, "a+1")
    result = ask("--json")
    assert result.code == 0
    by_kind = {s["kind"]: s for s in result.data["sources"]}
    assert by_kind["store"]["rows"][0]["configuration"].startswith("batch_size=1 seq_len=64")
    assert by_kind["neuron-cache"]["rows"][0]["done"] == 1
    assert by_kind["vllm-neuron-cache"]["status"] == "absent"
    assert by_kind["hf"]["rows"][0]["model_ids"] == ["org/llama"]
    text = ask()
    assert text.code == 0
    assert "org/llama" in text.out
    only = ask("--source", "store", "--json")
    assert [s["kind"] for s in only.data["sources"]] == ["store"]


def test_offline_asks_nobody(ask: Ask, hub: CacheHub) -> None:
    asked = ("org/llama", "--backend", "optimum", "--json")
    first = ask(*asked)
    hub.requests.clear()
    second = ask(*asked, "--offline")
    assert (second.code, second.data["sources"][0]["rows"]) == (0, first.data["sources"][0]["rows"])
    assert second.data["sources"][0]["age_seconds"] >= 0
    assert not hub.requests


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--source", "hubb"), "no source is called hubb"),
        (("x", "--release", "0.4.5", "--backend", "cpu"), "--source hf"),
        (("--batch-size", "4"), "no model given, but batch_size"),
    ],
)
def test_usage(ask: Ask, arguments: tuple[str, ...], said: str) -> None:
    result = ask(*arguments)
    assert result.code == 2
    assert said in result.err
