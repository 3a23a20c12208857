"""SIGKILL at every step of every job of the store: a reader sees a whole artifact or none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Record
from tests.faults.jobs import JOBS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_every_step(job: str, tmp_path: Path, record: Record) -> None:
    command = [sys.executable, "-m", "tests.faults.kill_at", job, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) > 10
    assert not rows[-1]["killed"], "every step was tried"
    for row in rows[:-1]:
        assert row["killed"], row
        assert set(row["visible"]) <= {"ok"}, row
        assert set(row["again"]) <= {"ok"}, row
        assert row["litter"] == [], row
        record(f"SIGKILL at every step of {job}", f"{len(row['visible'])} whole, none half")
    seen = {len(row["visible"]) for row in rows[:-1]}
    assert len(seen) == 2, "the kill hit both before and after the change became visible"
