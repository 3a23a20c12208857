"""However the host ends, the worker and every compiler it started end too."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from neuron_artifacts.errors import CompileError
from tests.worker.workers import SLEEPER, processes, run, wait_until, write_worker

ROOT = Path(__file__).parent.parent.parent

HOST = """
import os, sys
from pathlib import Path
from neuron_artifacts.worker import run_worker

python, worker, directory, mark = sys.argv[1:]
def observe(event):
    print(event.name, flush=True)
try:
    run_worker(Path(python), Path(worker), {"mark": mark, "jobs": 1}, directory=Path(directory),
               environ=dict(os.environ), observe=observe)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"mark-{secrets.token_hex(8)}"
    yield mark
    for pid in processes(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start_host(tmp_path: Path, mark: str, then: str) -> subprocess.Popen[str]:
    """A host with a worker that has three compilers running."""
    worker = write_worker(tmp_path, SLEEPER.format(then=then))
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, sys.executable, str(worker), str(tmp_path / "job"), mark],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    assert host.stdout
    assert host.stdout.readline() == "warning\n"
    assert wait_until(lambda: len(processes(mark)) == 4)  # the host and its three compilers
    return host


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_outlives_a_host_that_a_signal_ends(
    tmp_path: Path, mark: str, number: signal.Signals
) -> None:
    host = start_host(tmp_path, mark, "time.sleep(600)")
    host.send_signal(number)
    code = host.wait()
    assert code == (130 if number == signal.SIGINT else -number)
    assert wait_until(lambda: not processes(mark))
    assert wait_until(lambda: not processes(str(tmp_path / "worker.py")))


def test_control_c_has_ended_everything_when_it_returns(tmp_path: Path, mark: str) -> None:
    host = start_host(tmp_path, mark, "time.sleep(600)")
    os.killpg(host.pid, signal.SIGINT)
    assert host.wait() == 130
    assert not processes(mark)
    assert "KeyboardInterrupt" in (tmp_path / "job/worker.log").read_text()


def test_a_worker_that_ignores_the_interrupt_is_killed(tmp_path: Path, mark: str) -> None:
    stubborn = "import signal; signal.signal(2, signal.SIG_IGN); emit('warning', text='deaf')"
    host = start_host(tmp_path, mark, f"{stubborn}; time.sleep(600)")
    assert host.stdout
    assert host.stdout.readline() == "warning\n"
    host.send_signal(signal.SIGINT)
    assert host.wait() == 130
    assert not processes(mark)


def test_a_killed_guard_takes_the_worker_with_it(tmp_path: Path, mark: str) -> None:
    host = start_host(tmp_path, mark, "time.sleep(600)")
    script = next(p for p in processes(str(tmp_path / "worker.py")) if is_guard(p))
    os.kill(script, signal.SIGKILL)
    assert host.wait() == 1  # a CompileError nobody caught
    assert wait_until(lambda: not processes(str(tmp_path / "worker.py")))


def is_guard(pid: int) -> bool:
    return b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("then", ["return {}", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_no_compiler_outlives_its_worker(tmp_path: Path, mark: str, then: str) -> None:
    with nullcontext() if then == "return {}" else pytest.raises(CompileError):
        run(tmp_path, SLEEPER.format(then=then), {"mark": mark, "jobs": 1})
    assert not processes(mark)


def test_an_interrupted_worker_may_clean_up(tmp_path: Path, mark: str) -> None:
    then = """
        try:
            time.sleep(600)
        finally:
            open("cleaned", "w").close()
    """
    host = start_host(tmp_path, mark, then.strip())
    host.send_signal(signal.SIGINT)
    assert host.wait() == 130
    assert (tmp_path / "job/run/cleaned").exists()
