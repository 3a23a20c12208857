"""The compile caches of this machine as sources, on real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import StoreError
from neuron_artifacts.neuron_cache import CacheOptions
from neuron_artifacts.sources import Lookup, SourceReport
from neuron_artifacts.sources.persistent import PersistentSource
from neuron_artifacts.sources.vllm import VllmSource
from neuron_artifacts.spec import resolve_spec
from tests.compile_caches.caches import put_module
from tests.compile_caches.vllm_entries import put_entry
from tests.neuron_cache.caches import RELEASES, Cache
from tests.neuron_cache.model_configs import LLAMA
from tests.neuron_cache.test_folder import put

COMPILER = RELEASES["0.4.5"][0]
OLDER = RELEASES["0.4.1"][0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def look_up(tmp_path: Path, root: Path, compiler: str | None = None, **flags: Any) -> SourceReport:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(LLAMA))
    spec = resolve_spec({"model": str(model), **flags}, environ={})
    environ = {"NEURON_COMPILE_CACHE_URL": str(root)}
    lookup = Lookup(spec, environ=environ, options=CacheOptions(compiler=compiler), offline=True)
    [report] = PersistentSource(environ).look_up(lookup)
    return report


def test_finished_graphs_may_be_the_ones(tmp_path: Path, root: Path) -> None:
    put_module(root, COMPILER, "a+1")
    put_module(root, OLDER, "b+1", flags=["--target=trn2"])
    report = look_up(tmp_path, root, backend="nxdi")
    assert (report.status, report.usable) == ("unknown", True)
    assert "2 finished graphs" in report.reason
    assert f"1 graph by {COMPILER} for trn1" in str(report.configuration)


@pytest.mark.parametrize(
    ("flags", "compiler", "status"),
    [
        ({"target": "inf2"}, None, "unknown"),
        ({"target": "trn2"}, None, "miss"),
        ({"target": "native"}, None, "unknown"),
        ({}, "2.21.33363", "unknown"),
        ({}, "2.22", "miss"),
        ({}, f"neuronxcc-{COMPILER}", "unknown"),
    ],
)
def test_graphs_of_another_target_or_compiler_are_none(
    tmp_path: Path, root: Path, flags: dict[str, str], compiler: str | None, status: str
) -> None:
    put_module(root, COMPILER, "a+1", flags=["--target=trn1"])
    assert look_up(tmp_path, root, compiler, backend="nxdi", **flags).status == status


def test_poisoned_and_locked_graphs_are_named_with_a_remedy(tmp_path: Path, root: Path) -> None:
    failed = put_module(root, COMPILER, "a+1", "failed", log="killed\n")
    locked = put_module(root, COMPILER, "b+1", "locked")
    report = look_up(tmp_path, root, backend="nxdi")
    assert report.status == "miss"
    problems = report.document()["problems"]
    assert [(p["path"], p["state"], p["reason"]) for p in problems] == [
        (str(failed), "failed", "killed"), (str(locked), "locked", None),
    ]  # fmt: skip
    assert "--retry_failed_compilation" in problems[0]["remedy"]


def test_an_export_of_optimum_is_found_by_its_registry(tmp_path: Path, root: Path) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama", batch_size=4)
    put(root, cache)
    put_module(root, COMPILER, "a+1", "failed")
    report = look_up(tmp_path, root, backend="optimum", batch_size="4")
    assert (report.source, report.status, report.kind) == ("neuron-cache", "hit", "neuron-cache")
    assert report.rows[0]["batch_size"] == 4
    assert len(report.document()["problems"]) == 1
    near = look_up(tmp_path, root, backend="optimum", batch_size="2")
    assert near.nearest is not None
    assert near.nearest["sufficient"]["batch_size"] == 4
    other = look_up(tmp_path, root, backend="nxdi", batch_size="4")
    assert other.status == "miss"  # another library's graphs


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"NEURON_COMPILE_CACHE_URL": "s3://bucket/cache"}, "not looked at"),
        ({"NEURON_COMPILE_CACHE_URL": "/no/such/folder"}, "no such folder"),
        ({"NEURON_CC_FLAGS": "--cache_dir=/no/such"}, "--cache_dir in NEURON_CC_FLAGS"),
    ],
)
def test_a_cache_that_is_not_here_is_said_to_be_absent(environ: dict[str, str], said: str) -> None:
    lookup = Lookup(resolve_spec({"model": "org/x"}, environ={}), environ=environ)
    source = PersistentSource(environ)
    [report], [listing] = source.look_up(lookup), source.list_all(offline=True)
    assert (report.status, listing.status) == ("absent", "absent")
    assert said in report.reason
    assert listing.reason == report.reason


def test_a_listing_counts_graphs_and_shows_exports(root: Path) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama")
    put(root, cache)
    put_module(root, COMPILER, "a+1")
    [listing] = PersistentSource({"NEURON_COMPILE_CACHE_URL": str(root)}).list_all(offline=True)
    assert [(r["neuronxcc_version"], r["done"]) for r in listing.rows] == [(COMPILER, 1)]
    [exported] = listing.document()["registry"]["rows"]
    assert exported["model_ids"] == ["org/llama"]


def vllm(root: Path) -> VllmSource:
    return VllmSource({"VLLM_CACHE_ROOT": str(root)})


def test_vllms_cache(root: Path) -> None:
    lookup = Lookup(resolve_spec({"model": "org/x"}, environ={}), environ={})
    [absent] = vllm(root).look_up(lookup)
    assert absent.status == "absent"
    folder = root / "neuron" / "compile_cache"
    whole = put_entry(folder, "one")
    [report] = vllm(root).look_up(lookup)
    assert (report.status, report.rows[0]["complete"]) == ("unknown", 1)
    (whole / "graph.hlo").unlink()
    [report] = vllm(root).look_up(lookup)
    assert report.status == "miss"
    [problem] = report.document()["problems"]
    assert problem["path"] == str(whole)
    assert "compiles it again" in problem["remedy"]
    [listing] = vllm(root).list_all(offline=True)
    assert listing.rows[0]["incomplete"] == 1


def test_a_cache_that_cannot_be_read_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "neuron" / "compile_cache"
    folder.mkdir(parents=True)

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        vllm(root).list_all(offline=True)
