"""Every file operation of every job fails once, in each of the ways a disk fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import RUNS, Record
from tests.faults.jobs import JOBS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("job", "error"),
    [
        (job, error)
        for job in JOBS
        for error in ("ENOSPC", "EIO", "EROFS", "EACCES")
        # The long jobs in the two ways that differ most, unless there is time.
        if RUNS > 1 or job not in ("adopt", "push", "pull") or error in ("ENOSPC", "EIO")
    ],
)
def test_one_operation_fails(job: str, error: str, tmp_path: Path, record: Record) -> None:
    command = [sys.executable, "-m", "tests.faults.fail_at", job, error, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) > 10
    assert not rows[-1]["reached"], "every step was tried"
    for row in rows[:-1]:
        assert not row["raised"].startswith("!"), row
        assert set(row["statuses"]) <= {"ok"}, row
        outcome = "done all the same" if row["raised"] == "nothing" else "a clear error"
        record(f"{error} at every step of {job}", f"{outcome}, nothing half visible")
    raised = {row["raised"] for row in rows[:-1]}
    assert len(raised) > 1, "some operations matter"
