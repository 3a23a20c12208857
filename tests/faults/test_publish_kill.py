"""SIGKILL at every step of publishing: a reader sees a whole artifact or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import publish

ROOT = Path(__file__).parent.parent.parent


def run(step: int, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.kill_at", str(step), str(directory)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_killed_at_every_step(tmp_path: Path) -> None:
    steps = int(run(0, tmp_path / "whole").stdout)
    assert steps > 20
    outcomes = {"absent": 0, "whole": 0}
    for step in range(1, steps + 1):
        directory = tmp_path / str(step)
        assert run(step, directory).returncode == -signal.SIGKILL
        store = LocalStore(directory)
        visible = store.directories()
        for path in visible:
            assert verify_artifact(path, "full").status == "ok", f"step {step}"
        outcomes["whole" if visible else "absent"] += 1
        if not visible:
            published = publish(directory)
            assert verify_artifact(published, "full").status == "ok", f"retry after step {step}"
        litter = store.collect_abandoned()
        assert len(litter) <= 1
        assert not list((store.root / ".staging").glob("*")), f"litter after step {step}"
    assert outcomes["absent"] > 10
    assert outcomes["whole"] >= 1
