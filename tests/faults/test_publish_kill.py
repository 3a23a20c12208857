"""SIGKILL at every step of every job of the store: a reader sees a whole artifact or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.gc import collect_litter
from tests.faults.conftest import Record
from tests.faults.jobs import JOBS

ROOT = Path(__file__).parent.parent.parent


def run(job: str, step: int, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.kill_at", job, str(step), str(directory)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_every_step(job: str, tmp_path: Path, record: Record) -> None:
    steps = int(run(job, 0, tmp_path / "whole").stdout)
    assert steps > 10
    seen = set()
    for step in range(1, steps + 1):
        directory = tmp_path / str(step)
        assert run(job, step, directory).returncode == -signal.SIGKILL
        store = LocalStore(directory)
        visible = store.directories()
        for path in visible:
            assert verify_artifact(path, "full").status == "ok", f"step {step}"
        seen.add(len(visible))
        record(f"SIGKILL at every step of {job}", f"{len(visible)} whole, none half")
        prepare, again = JOBS[job]
        prepare(directory)
        again(directory)
        collect_litter(store)
        for path in store.directories():
            assert verify_artifact(path, "full").status == "ok", f"retry after step {step}"
        for place in (".staging", ".trash"):
            assert not list((store.root / place).glob("*")), f"litter after step {step}"
    assert len(seen) == 2, "the kill hit both before and after the change became visible"
