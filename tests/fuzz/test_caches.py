"""What lies in caches and shared stores, where strangers may write: read, or as good as none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_artifacts._files import DigestCache
from neuron_artifacts.compile_caches.persistent import read_modules, summarise
from neuron_artifacts.model.hub_cache import HubCache
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.failures import FAILED, recall_failure
from neuron_artifacts.store.local import _read_holder
from neuron_artifacts.store.scrub import scrub
from tests.artifact.artifacts import publish
from tests.fuzz.inputs import JSON, changed, damaged, fuzz

FAILURE = {
    "cause": "device_memory", "message": "m", "log": "l", "created": 1.0, "expires": 9.0e9,
}  # fmt: skip
COMMIT = "0" * 40
LISTING = {"files": {"model.safetensors": [4, "0" * 64], "config.json": [2, None]}}
LINE = {
    "path": "/a", "manifest": "0" * 64, "status": "ok", "problems": [], "size": 1, "at": 2e9,
}  # fmt: skip


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def drawn(value: Any) -> st.SearchStrategy[bytes]:
    return changed(value).map(as_bytes) | damaged(as_bytes(value)) | JSON.map(as_bytes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@fuzz
@given(drawn(FAILURE))
@example(as_bytes({**FAILURE, "created": 10**400}))
@example(as_bytes({**FAILURE, "expires": "1e999"}))
@example(as_bytes({**FAILURE, "created": "nan"}))
def test_failures(place: Path, data: bytes) -> None:
    (place / FAILED).mkdir(exist_ok=True)
    (place / FAILED / "digest.json").write_bytes(data)
    found = recall_failure(place, "digest", now=2.0)
    assert found is None or (found.cause == "device_memory" and str(found) and found.until)


@fuzz
@given(drawn({"size": 4, "mtime_ns": 5, "sha256": "0" * 64}))
@example(as_bytes({"size": 4, "mtime_ns": 5, "sha256": ["0" * 64]}))
def test_digests(place: Path, data: bytes) -> None:
    file = place / "file"
    file.write_bytes(b"abcd")
    os.utime(file, ns=(5, 5))
    cache = DigestCache(place / "digests")
    cache.remember(file, "1" * 64, settled=True)
    (entry,) = (place / "digests").iterdir()
    entry.write_bytes(data)
    assert cache.lookup(file) in (None, "0" * 64)


@fuzz
@given(drawn(LISTING))
def test_what_a_hub_once_listed(place: Path, data: bytes) -> None:
    cache = HubCache("org/model", place / "hub")
    record = cache._record(COMMIT)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_bytes(data)
    found = cache.recall(COMMIT)
    for remote in found.files.values() if found else ():
        assert remote.size >= 0


@fuzz
@given(st.lists(drawn(LINE), max_size=3).map(b"\n".join))
def test_checkpoints(place: Path, data: bytes) -> None:
    artifact = next(iter((place / "neuron-compiled-artifacts").glob("[0-9a-f]*")), None)
    artifact = artifact or publish(place)
    checkpoint = place / "checkpoint.jsonl"
    checkpoint.write_bytes(data)
    (result,) = scrub([artifact], jobs=1, checkpoint=checkpoint)
    assert (result.path, result.status, result.resumed) == (artifact, "ok", False)


@fuzz
@given(drawn(["--target", "trn1"]), st.binary(max_size=200))
def test_modules_of_the_compiler(place: Path, flags: bytes, log: bytes) -> None:
    module = place / "cache" / "neuronxcc-2.21" / "MODULE_1+2"
    module.mkdir(parents=True, exist_ok=True)
    (module / "compile_flags.json").write_bytes(flags)
    (module / "model.log").write_bytes(log)
    (found,) = read_modules(place / "cache")
    assert found.state == "failed"
    assert summarise([found])


@pytest.mark.parametrize("kind", ["/dev/zero", "a pipe"])
def test_files_without_end(tmp_path: Path, kind: str) -> None:
    """Of a store that others write to as well: nobody waits, and no memory fills."""

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path) if kind == "a pipe" else path.symlink_to(kind)
        return path

    put(tmp_path / FAILED / "digest.json")
    assert recall_failure(tmp_path, "digest") is None
    put(tmp_path / "key.holder")
    assert _read_holder(tmp_path / "key.lock") == "another process"
    artifact = publish(tmp_path)
    put(artifact / "artifact.json")
    (result,) = scrub([artifact], jobs=1, checkpoint=tmp_path / "checkpoint")
    assert result.status == "corrupt"


@pytest.mark.parametrize("name", ["key.holder", "key.lock"])
def test_a_lock_of_a_shared_store_leads_nowhere(tmp_path: Path, name: str) -> None:
    """Whoever may write there could link what this process writes to a file of its user's."""
    store = LocalStore(tmp_path, DigestCache(tmp_path / "digests"))
    locks = store.root / ".locks"
    locks.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (locks / name).symlink_to(mine)
    with store.building("key", lambda *_: None):
        assert mine.read_text() == "precious"
    assert mine.read_text() == "precious"
