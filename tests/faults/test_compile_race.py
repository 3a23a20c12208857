"""Processes that compile the same key at once, and one that is killed at random moments."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from tests.cli.run import TOOL, run
from tests.models import SMALL, copy_model

FLAGS = [str(t) for name, value in SMALL.items() for t in (f"--{name.replace('_', '-')}", value)]


def start(place: Path, *flags: str, stderr: Path | None = None) -> subprocess.Popen[str]:
    with (stderr or Path(os.devnull)).open("w") as errors:
        return subprocess.Popen(
            [*TOOL, "compile", "model", *FLAGS, "--json", *flags],
            cwd=place, env=dict(os.environ), stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    copy_model(tmp_path / "model")
    return tmp_path


def test_several_builders_of_one_key_compile_once(place: Path) -> None:
    """All four are held back until each of them waits, so that they truly start as one."""
    store = LocalStore(place)
    key = json.loads(run("key", "model", *FLAGS, "--json", cwd=place).out)["key"]
    errors = [place / f"{number}.err" for number in range(4)]
    with store.building(key, lambda *_: None):
        processes = [start(place, stderr=path) for path in errors]
        _wait_until(
            lambda: all("waiting for process" in path.read_text() for path in errors), processes
        )
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    outcomes = [json.loads(out) for out in outputs]
    assert sorted(outcome["compiled"] for outcome in outcomes) == [0, 0, 0, 3]
    assert len({outcome["path"] for outcome in outcomes}) == 1
    assert all(outcome["waited"] for outcome in outcomes)
    assert len(store.directories()) == 1
    assert verify_artifact(store.directories()[0], "full").status == "ok"
    assert not list((store.root / ".staging").glob("*"))


def _wait_until(
    holds: Callable[[], bool], processes: list[subprocess.Popen[str]], seconds: float = 120
) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "they never came to wait"
        assert all(process.poll() is None for process in processes), "one ended without waiting"
        time.sleep(0.05)


def test_broken_locks_cost_double_work_and_nothing_else(place: Path) -> None:
    """``flock`` that grants itself to everybody, as some network file systems do."""
    site = place / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import fcntl\nfcntl.flock = lambda *_: None\n")
    environ = {**os.environ, "PYTHONPATH": str(site)}
    command = [*TOOL, "compile", "model", *FLAGS, "--json"]
    processes = [
        subprocess.Popen(command, cwd=place, env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    outcomes = [json.loads(out) for out in outputs]
    assert sum(outcome["compiled"] for outcome in outcomes) > 3
    store = LocalStore(place)
    assert len(store.directories()) == 1
    assert verify_artifact(store.directories()[0], "full").status == "ok"
    assert not list((store.root / ".staging").glob("*"))
    assert not (store.root / ".set-aside").exists()
