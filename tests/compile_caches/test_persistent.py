"""The persistent Neuron cache on disk, in every state libneuronxla leaves it in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from neuron_artifacts.compile_caches.persistent import (
    DEFAULT_ROOT,
    classify,
    locate_cache,
    read_modules,
    summarise,
)
from neuron_artifacts.errors import StoreError
from tests.compile_caches.caches import put_module

COMPILER = "2.21.33363.0+82129205"
NEWER = "2.22.12471.0+b4a00d10"


@pytest.mark.parametrize(
    ("environ", "url", "origin"),
    [
        ({}, str(DEFAULT_ROOT), "default"),
        ({"NEURON_COMPILE_CACHE_URL": "/data/cache"}, "/data/cache", "NEURON_COMPILE_CACHE_URL"),
        ({"NEURON_COMPILE_CACHE_URL": " "}, str(DEFAULT_ROOT), "default"),
        (
            {"NEURON_COMPILE_CACHE_URL": "/a", "NEURON_CC_FLAGS": "-O1 --cache_dir=/b.c/d"},
            "/b.c/d", "--cache_dir in NEURON_CC_FLAGS",
        ),
        (
            {"NEURON_CC_FLAGS": "--cache_dir '/with space' --cache_dir /last --target=trn1"},
            "/last", "--cache_dir in NEURON_CC_FLAGS",
        ),
        ({"NEURON_CC_FLAGS": "--cache_dir='/open"}, "'/open", "--cache_dir in NEURON_CC_FLAGS"),
        (
            {"NEURON_COMPILE_CACHE_URL": "s3://bucket/cache"},
            "s3://bucket/cache", "NEURON_COMPILE_CACHE_URL",
        ),
    ],
)  # fmt: skip
def test_where_the_cache_is(environ: dict[str, str], url: str, origin: str) -> None:
    found = locate_cache(environ)
    assert (found.url, found.origin) == (url, origin)
    assert (found.path is None) == url.startswith("s3://")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    found = locate_cache({"NEURON_COMPILE_CACHE_URL": f"file://{tmp_path}"})
    assert found.path == tmp_path


@pytest.mark.parametrize(
    ("names", "state"),
    [
        ({"model.hlo_module.pb", "model.neff", "model.done"}, "done"),
        ({"model.neff", "model.done", "model.log"}, "done"),
        ({"model.neff", "model.done", "model.hlo_module.pb.lock"}, "done"),
        ({"model.neuron", "config.json"}, "done"),
        ({"model.log", "model.hlo_module.pb"}, "failed"),
        ({"model.log", "model.hlo_module.pb.lock"}, "failed"),
        ({"model.hlo_module.pb", "model.hlo_module.pb.lock"}, "locked"),
        ({"model.neff", "model.hlo_module.pb.lock"}, "locked"),
        ({"model.neff"}, "empty"),
        ({"model.done"}, "empty"),
        (set(), "empty"),
    ],
)
def test_states(names: set[str], state: str) -> None:
    assert classify(names) == state


def test_modules_are_read_with_their_targets_and_counted(tmp_path: Path) -> None:
    for number in range(3):
        put_module(tmp_path, COMPILER, f"{number:020x}+e30acd3a", flags=["--target=trn1", "-O1"])
    put_module(tmp_path, COMPILER, "1234+d41d8cd9", flags=[])
    put_module(tmp_path, NEWER, "aa+bb", "locked", flags=["--target", "trn2"])
    (tmp_path / f"neuronxcc-{COMPILER}" / "0_REGISTRY" / "0.4.5").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    modules = read_modules(tmp_path)
    assert [(m.compiler, m.target, m.state) for m in modules] == [
        (COMPILER, "trn1", "done"), (COMPILER, "trn1", "done"), (COMPILER, "trn1", "done"),
        (COMPILER, None, "done"), (NEWER, "trn2", "locked"),
    ]  # fmt: skip
    rows = summarise(modules)
    assert [(r["neuronxcc_version"], r["target"], r["done"], r["locked"]) for r in rows] == [
        (COMPILER, None, 1, 0), (COMPILER, "trn1", 3, 0), (NEWER, "trn2", 0, 1),
    ]  # fmt: skip
    total = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert sum(row["bytes"] for row in rows) == total


def test_a_failed_module_is_named_with_its_reason_and_remedy(tmp_path: Path) -> None:
    path = put_module(tmp_path, COMPILER, "dead+beef", "failed", log="a\nOut of memory\n\n")
    [module] = read_modules(tmp_path)
    assert module.reason == "Out of memory"
    assert f"rm -r {path}" in str(module.remedy)
    assert "--retry_failed_compilation" in str(module.remedy)


def test_flags_without_end_are_not_read(tmp_path: Path) -> None:
    path = put_module(tmp_path, COMPILER, "a+b", flags=["--target=trn1"])
    flags = path / "compile_flags.json"
    flags.write_bytes(flags.read_bytes() + b" " * (1 << 20))
    assert read_modules(tmp_path)[0].target is None


def test_a_lock_may_be_stale_and_a_done_module_needs_nothing(tmp_path: Path) -> None:
    put_module(tmp_path, COMPILER, "a+b")
    put_module(tmp_path, COMPILER, "c+d", "locked")
    done, locked = read_modules(tmp_path)
    assert done.remedy is None
    assert "clear-locks" in str(locked.remedy)


def test_a_traced_pipeline_is_done(tmp_path: Path) -> None:
    for part in ("unet", "text_encoder"):
        folder = tmp_path / f"neuronxcc-{COMPILER}" / "MODULE_0123456789abcdef0123" / part
        folder.mkdir(parents=True)
        (folder / "model.neuron").write_bytes(b"graph")
    [module] = read_modules(tmp_path)
    assert module.state == "done"


def test_damaged_flags_say_nothing(tmp_path: Path) -> None:
    for name, data in (("a", b"{"), ("b", b"7"), ("c", b"null"), ("d", b'[1, "--target"]')):
        path = put_module(tmp_path, COMPILER, name)
        (path / "compile_flags.json").write_bytes(data)
    older = put_module(tmp_path, COMPILER, "e")
    (older / "compile_flags.json").write_text(json.dumps("--target=inf2 -O2"))
    assert [m.target for m in read_modules(tmp_path)] == [None, None, None, None, "inf2"]


def test_no_folder_is_an_empty_cache_and_an_unreadable_one_an_error(tmp_path: Path) -> None:
    assert read_modules(tmp_path / "none") == ()
    (tmp_path / "file").write_text("")
    assert read_modules(tmp_path / "file") == ()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(StoreError, match="cannot be read"):
        read_modules(closed)
