"""Which caches of served artifacts are of no use any more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_artifacts.compile_caches.served import (
    CACHE_VARIABLE,
    RECORD,
    find_unused,
    remember,
    root_of,
)
from neuron_artifacts.errors import StoreError
from tests.artifact.artifacts import publish
from tests.cli.run import run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURON_ARTIFACTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def serve_once(artifact: Path) -> Path:
    root = root_of(artifact.name)
    remember(root, artifact)
    (root / "neuron").mkdir()
    (root / "neuron" / "graph.neff").write_bytes(b"x" * 5000)
    return root


def test_nothing_was_ever_served() -> None:
    assert find_unused() == []


def test_of_use_as_long_as_the_artifact_is_there(tmp_path: Path) -> None:
    artifact = publish(tmp_path)
    root = serve_once(artifact)
    assert find_unused() == []
    shutil.rmtree(artifact)
    assert find_unused() == [root]


def test_another_artifact_at_its_place_is_not_it(tmp_path: Path) -> None:
    artifact = publish(tmp_path)
    root = serve_once(artifact)
    other = publish(tmp_path, phase="other")
    shutil.rmtree(artifact)
    other.rename(artifact)
    assert find_unused() == [root]


def test_a_process_that_serves_from_it_keeps_it(tmp_path: Path) -> None:
    artifact = publish(tmp_path)
    root = serve_once(artifact)
    shutil.rmtree(artifact)
    program = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, CACHE_VARIABLE: str(root)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        process.stdout.readline()
        assert find_unused() == []
        process.communicate()
    assert find_unused() == [root]


@pytest.mark.parametrize("note", [None, b"{", b"[]", b'{"artifact": "/nowhere"}', b'{"artifact": 1,'
                                  b' "host": 2}'])  # fmt: skip
def test_what_nobody_signed_is_left_alone(tmp_path: Path, note: bytes | None) -> None:
    root = serve_once(tmp_path / "artifact")
    (root / RECORD).unlink()
    if note is not None:
        (root / RECORD).write_bytes(note)
    assert find_unused() == []


def test_what_another_host_serves_cannot_be_judged(tmp_path: Path) -> None:
    root = serve_once(tmp_path / "artifact")
    assert find_unused() == [root]
    note = json.loads((root / RECORD).read_bytes())
    (root / RECORD).write_text(json.dumps({**note, "host": "somebody-else"}))
    assert find_unused() == []


def test_a_root_of_the_callers_own_is_never_signed(tmp_path: Path) -> None:
    remember(tmp_path / "theirs", tmp_path / "artifact")
    assert not (tmp_path / "theirs").exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        remember(root_of("a" * 64), tmp_path)


def test_gc_announces_and_removes_it(tmp_path: Path) -> None:
    artifact = publish(tmp_path)
    root, kept = serve_once(artifact), publish(tmp_path, phase="other")
    other = serve_once(kept)
    shutil.rmtree(artifact)
    dry = run("gc", "--dry-run", "--json", cwd=tmp_path)
    assert str(root) in dry.out + dry.err
    assert root.exists()
    assert run("gc", "--json", cwd=tmp_path).code == 0
    assert (root.exists(), other.exists()) == (False, True)
