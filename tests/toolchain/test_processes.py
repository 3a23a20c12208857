"""Programs that hang, flood, fail, or leave children behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from neuron_artifacts.toolchain.processes import read_output


def read(program: str, seconds: float = 30.0) -> str:
    return read_output([sys.executable, "-I", "-c", program], dict(os.environ), seconds)


def test_what_a_program_prints() -> None:
    assert read("import sys; print('é'); print('no', file=sys.stderr)") == "é\n"


@pytest.mark.parametrize(
    ("program", "kind", "said"),
    [
        ("import time; time.sleep(600)", TimeoutError, "no answer within 0.5 s"),
        ("import sys; sys.exit(3)", ValueError, "code 3"),
        ("import os; os.kill(os.getpid(), 11)", ValueError, "signal 11"),
        ("import os, time; os.close(1); time.sleep(600)", TimeoutError, "does not end"),
    ],
)
def test_a_broken_program(program: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        read(program, 0.5 if kind is TimeoutError else 30.0)


def test_a_flood_is_cut_off() -> None:
    with pytest.raises(ValueError, match="without end"):
        read("while True: print('x' * 100000)")


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_output([str(tmp_path / "absent")], {}, 1.0)


def test_children_end_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(TimeoutError):
        read(
            f"""
import os, pathlib, time
child = os.fork()
if child:
    pathlib.Path({str(note)!r}).write_text(str(child))
time.sleep(600)
""",
            2.0,
        )
    child = int(note.read_text())
    while _runs(child):  # until init has seen it; the test's time limit is the guard
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
