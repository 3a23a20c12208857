"""Many readers, writers and collectors at once: nothing that is read is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import publish
from tests.faults.conftest import RUNS, Record

ROOT = Path(__file__).parents[2]
READERS, WRITERS = 8, 16
SECONDS = 4.0

READER = """
import json, sys, time
from pathlib import Path
from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.leases import hold
store, seconds = LocalStore(Path(sys.argv[1])), float(sys.argv[2])
whole = missed = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    for path in store.directories():
        with hold(path):
            status = verify_artifact(path, "full").status
            if status == "missing":
                missed += 1  # it was collected before it was held
                continue
            for _ in range(5):
                again = verify_artifact(path, "full").status
                assert again == "ok", (path, again)
            assert status == "ok", (path, status)
            whole += 1
print(json.dumps({"whole": whole, "missed": missed}))
"""

WRITER = """
import sys, time
from pathlib import Path
from tests.artifact.artifacts import make_document
from neuron_artifacts.store import LocalStore
from tests.faults.jobs import publish_one
import tests.artifact.artifacts as artifacts
directory, seconds = Path(sys.argv[1]), float(sys.argv[2])
end = time.monotonic() + seconds
while time.monotonic() < end:
    for number in range(4):
        if not LocalStore(directory).path(make_document(number=number).key).exists():
            try:
                artifacts.publish(directory, number=number)
            except AssertionError:
                pass  # another writer was first
"""

COLLECTOR = """
import sys, time
from pathlib import Path
from tests.faults.jobs import collect
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    collect(Path(sys.argv[1]))
"""


def start(code: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory), str(SECONDS * RUNS)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_collecting_against_readers_and_writers(tmp_path: Path, record: Record) -> None:
    publish(tmp_path)  # a store that is not there yet is nothing to collect, and `gc` says so
    jobs = [READER] * READERS + [WRITER] * 2 + [COLLECTOR] * 2
    processes = [start(code, tmp_path) for code in jobs]
    results = [process.communicate(timeout=240 + SECONDS * RUNS) for process in processes]
    for process, (_, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err
    counts = [json.loads(out) for out, _ in results[:READERS]]
    assert sum(count["whole"] for count in counts) > READERS
    for count in counts:
        record(f"gc against {READERS} readers", "every held artifact stayed whole")
        assert count["whole"] >= 0
    store = LocalStore(tmp_path)
    for path in store.directories():
        assert verify_artifact(path, "full").status == "ok"
    assert not list((store.root / ".trash").glob("*"))


def test_many_writers_of_one_key(tmp_path: Path, record: Record) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.artifact.artifacts import publish\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try:\n publish(Path(sys.argv[1]))\n print('won')\n"
        "except AssertionError:\n print('lost')\n"
    )
    at = time.time() + 3.0
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(at)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(WRITERS)
    ]  # fmt: skip
    outcomes = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert outcomes.count("won") == 1
    assert outcomes.count("lost") == WRITERS - 1
    (path,) = LocalStore(tmp_path).directories()
    assert verify_artifact(path, "full").status == "ok"
    record(f"{WRITERS} writers of one key", "one artifact, whole")
