"""A worker that serves: calls, bytes, refusals, and every way to lose it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from neuron_artifacts.errors import EngineError, ServeError
from neuron_artifacts.worker import WorkerEvent, WorkerProcess, open_worker, process
from tests.worker.workers import PYTHON, processes, write_worker

SERVER = """
    import os, struct, sys

    def serve(request, emit, exchange):
        emit("phase", name="load")
        exchange.ready({"batch_size": request["batch_size"]})
        for call in exchange:
            if call.method == "double":
                emit("progress", what="calls", done=1, total=1)
                numbers = [2.0 * number for number in call.payload["numbers"]]
                data = struct.pack("<%df" % len(numbers), *numbers)
                exchange.answer({"count": len(numbers)}, data)
            elif call.method == "refuse":
                exchange.fail(ValueError("slot 9 of 4"))
            elif call.method == "print":
                print('{"event": "answer", "payload": {}}', flush=True)
                exchange.answer({})
            else:
                exec(call.method)
        print("left in peace")
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    with closing(start(tmp_path, SERVER)) as opened:
        yield opened


def start(tmp_path: Path, source: str, seen: list[WorkerEvent] | None = None) -> WorkerProcess:
    return open_worker(
        PYTHON, write_worker(tmp_path, source), {"batch_size": 4}, directory=tmp_path / "job",
        environ=dict(os.environ), observe=(seen if seen is not None else []).append,
    )  # fmt: skip


def test_facts_and_binary_answers(worker: WorkerProcess) -> None:
    assert worker.facts == {"batch_size": 4}
    for numbers in ([], [1.5], [0.25] * 300_000):
        payload, data = worker.call("double", {"numbers": numbers})
        assert payload == {"count": len(numbers)}
        assert data == struct.pack(f"<{len(numbers)}f", *(2 * number for number in numbers))


def test_a_refused_call_leaves_the_worker_as_it_was(worker: WorkerProcess) -> None:
    with pytest.raises(EngineError, match="refuse: ValueError: slot 9 of 4"):
        worker.call("refuse", {})
    assert worker.call("double", {"numbers": [1]})[0] == {"count": 1}


def test_events_pass_by_while_it_serves(tmp_path: Path) -> None:
    seen: list[WorkerEvent] = []
    with closing(start(tmp_path, SERVER, seen)) as worker:
        worker.call("print", {})
        worker.call("double", {"numbers": [1]})
    assert [event.name for event in seen] == ["phase", "progress"]


def test_closing_lets_it_leave_and_is_final(tmp_path: Path) -> None:
    worker = start(tmp_path, SERVER)
    worker.close()
    worker.close()
    assert (tmp_path / "job/worker.log").read_text() == "left in peace\n"
    with pytest.raises(EngineError, match="closed"):
        worker.call("double", {"numbers": []})


def test_closing_ends_a_worker_that_does_not_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.5)
    source = """
        import time

        def serve(request, emit, exchange):
            exchange.ready({})
            time.sleep(600)
    """
    start(tmp_path, source).close()
    assert not processes(str(tmp_path / "worker.py"))


LOSSES = [
    ("raise RuntimeError('nrt_tensor_allocate status=4 message=\"Allocation Failure\"')",
     "device's memory"),
    ("os._exit(1)", "exit code 1"),
    ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
    ("os.write(emit.__self__._descriptor, b'garbage\\n')", "broke the protocol"),
    ("break", "exit code 0 and without a result"),
]  # fmt: skip


@pytest.mark.parametrize(("action", "told"), LOSSES)
def test_a_lost_worker_is_an_error_now_and_later(tmp_path: Path, action: str, told: str) -> None:
    source = SERVER.replace("exec(call.method)", action)
    with closing(start(tmp_path, source)) as worker:
        for _ in range(2):
            with pytest.raises(EngineError, match=told):
                worker.call("fall", {})
    assert (tmp_path / "job/worker.log").exists()


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("raise FileNotFoundError('model.pt')", "FileNotFoundError: model.pt"),
        ("return", "without a result"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_a_worker_that_is_never_ready(tmp_path: Path, action: str, told: str) -> None:
    source = f"""
        import os

        def serve(request, emit, exchange):
            {action}
    """
    with pytest.raises(ServeError, match=told):
        start(tmp_path, source)


def test_a_temporary_directory_lives_as_long_as_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = write_worker(tmp_path, SERVER)
    request = {"batch_size": 1}
    with closing(open_worker(PYTHON, path, request, environ=dict(os.environ))):
        assert len(list(tmp_path.glob("neuron-artifacts-worker-*"))) == 1
    assert not list(tmp_path.glob("neuron-artifacts-worker-*"))
    with closing(open_worker(PYTHON, path, request, environ=dict(os.environ))) as worker:
        with pytest.raises(EngineError, match=r"neuron-artifacts-worker-.*worker\.log"):
            worker.call("os._exit(1)", {})
    assert list(tmp_path.glob("neuron-artifacts-worker-*/worker.log"))
