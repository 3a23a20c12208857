"""Workers in real processes: what they see, what they tell, and how they fail."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import (
    CompileError,
    CompileInterruptedError,
    ExitCode,
    StoreError,
    ToolchainError,
)
from neuron_artifacts.worker import WorkerEvent, process, run_worker
from tests.worker.workers import PYTHON, run, write_worker

SURROUNDINGS = """
    import json, os, sys, tempfile

    def run(request, emit):
        with open("graph_0.hlo", "w") as file:  # as NxD's ModelBuilder does
            file.write("hlo")
        return {
            "request": request, "path": sys.path, "directory": os.getcwd(),
            "environ": dict(os.environ), "hash": hash("LoRA"), "name": __name__, "file": __file__,
            "modules": sorted(name for name in sys.modules if name.startswith("neuron_artifacts")),
        }
"""


def test_a_worker_sees_its_request_and_surroundings_of_its_own(tmp_path: Path) -> None:
    request = {"neuron_config": {"tp_degree": 2, "clamp": float("inf")}, "model": "/modèle"}
    result = run(tmp_path, SURROUNDINGS, request, NEURON_RT_NUM_CORES="2", PYTHONHASHSEED="7",
                 BASE_COMPILE_WORK_DIR="/shared")  # fmt: skip
    assert result["request"] == {"action": "compile", **request}
    environ = result["environ"]
    assert environ["NEURON_RT_NUM_CORES"] == "2"
    assert environ["PYTHONHASHSEED"] == "0"
    assert environ["BASE_COMPILE_WORK_DIR"] == f"{tmp_path}/job/compile/"
    assert environ["PATH"].split(":")[0] == str(PYTHON.parent)
    assert result["directory"] == str(tmp_path / "job/run")
    assert (tmp_path / "job/run/graph_0.hlo").exists()
    assert run(tmp_path, SURROUNDINGS)["hash"] == result["hash"]


def test_nothing_of_ours_is_importable_by_accident(tmp_path: Path) -> None:
    result = run(tmp_path, SURROUNDINGS)
    package = Path(process.__file__).parent
    assert str(package) not in result["path"]
    assert str(tmp_path) not in result["path"]
    assert "" not in result["path"]
    assert result["modules"] == ["neuron_artifacts_worker"]
    assert not list(tmp_path.rglob("*.pyc"))


def test_the_work_directory_depends_on_the_job_alone(tmp_path: Path) -> None:
    worker = write_worker(tmp_path, SURROUNDINGS)

    def compile_directory(name: str) -> str:
        result = run_worker(PYTHON, worker, {}, directory=tmp_path / name, environ=dict(os.environ))
        return str(result["environ"]["BASE_COMPILE_WORK_DIR"])

    assert compile_directory("one") == compile_directory("one") != compile_directory("two")


def test_a_request_is_for_its_owner_only(tmp_path: Path) -> None:
    run(tmp_path, SURROUNDINGS)
    assert stat.S_IMODE((tmp_path / "job/request.json").stat().st_mode) == 0o600


def test_events_arrive_in_order_and_timed(tmp_path: Path) -> None:
    seen: list[WorkerEvent] = []
    source = """
        def run(request, emit):
            emit("phase", name="trace")
            emit("progress", what="weights", done=1, total=2)
            emit("phase", name="compile")
            emit("graph", phase="context_encoding", bucket=128, state="compiling")
            emit("graph", phase="context_encoding", bucket=128, state="compiled")
            emit("warning", text="slow")
            return {"ok": True}
    """
    assert run(tmp_path, source, observe=seen.append) == {"ok": True}
    assert [event.name for event in seen] == [
        "progress", "phase", "graph", "graph", "warning", "phase",
    ]  # fmt: skip
    assert seen[1].fields["name"] == "trace"
    assert seen[3].fields["seconds"] >= 0


def test_what_is_printed_goes_to_the_log_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = """
        import os, sys

        def run(request, emit):
            print('{"event": "result", "result": {"forged": true}}', flush=True)
            os.write(1, b"\\xff\\xfe\\0 garbage")
            os.system("echo from a compiler; echo and its complaint >&2")
            print("unicode: ✓", file=sys.stderr)
            return {"ok": True}
    """
    assert run(tmp_path, source, LC_ALL="C") == {"ok": True}
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "job/worker.log").read_bytes()
    for text in (
        b"forged",
        b"\xff\xfe\0 garbage",
        b"from a compiler",
        b"complaint",
        b"\xe2\x9c\x93",
    ):
        assert text in log


def test_a_flooded_log_keeps_its_beginning_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_LIMIT", 1 << 16)
    source = """
        def run(request, emit):
            print("first words")
            for number in range(40000):
                print("a line of a compiler that talks a lot, number", number)
            raise RuntimeError("[F137] neuronx-cc was forcibly killed")
    """
    with pytest.raises(CompileError, match="F137") as caught:
        run(tmp_path, source, {"jobs": 1})
    log = (tmp_path / "job/worker.log").read_bytes()
    assert len(log) <= 1 << 16
    assert log.startswith(b"first words")
    assert b"number 39999" in log
    assert b"bytes left out]" in log
    assert "RuntimeError: [F137]" in caught.value.log


BROKEN = [
    ("os.write(fd, b'not json\\n')", "not json"),
    ("os.write(fd, b'[1, 2]\\n')", "1, 2"),
    ('os.write(fd, b\'{"event": "surprise"}\\n\')', "surprise"),
    ('os.write(fd, b\'{"event": "graph", "phase": "p"}\\n\')', "graph"),
    ('os.write(fd, b\'{"event": "phase", "name": "x", "bytes": -1}\\n\')', "bytes"),
    ('os.write(fd, b\'{"event": "pha\'); os._exit(0)', "breaks off"),
]


@pytest.mark.parametrize(("action", "told"), BROKEN)
def test_a_broken_event_line_ends_the_worker(tmp_path: Path, action: str, told: str) -> None:
    source = f"""
        import os, time

        def run(request, emit):
            fd = emit.__self__._descriptor
            {action}
            time.sleep(600)
    """
    with pytest.raises(CompileError, match="broke the protocol") as caught:
        run(tmp_path, source)
    assert told in caught.value.message
    assert str(tmp_path / "job/worker.log") in caught.value.message


FAILURES: list[tuple[str, dict[str, Any], str, str]] = [
    ("raise ValueError('tp_degree 3 does not divide 8')", {}, "unknown", "tp_degree 3 does not"),
    ("raise RuntimeError('2024 [XCG815]  Estimated peak HBM usage (22.8) exceeds 16GB.')", {},
     "device_memory", "does not fit into the device's memory"),
    ("sys.exit(3)", {}, "unknown", "SystemExit: 3"),
    ("os._exit(0)", {}, "unknown", "exit code 0 and without a result"),
    ("os._exit(70)", {}, "unknown", "exit code 70 and without a result"),
    ("os.kill(os.getpid(), 9)", {"jobs": 1}, "host_memory", "killed by SIGKILL"),
    ("os.kill(os.getpid(), 11)", {}, "unknown", "killed by SIGSEGV"),
    ("os.kill(os.getpid(), 6)", {}, "unknown", "killed by SIGABRT"),
    ("return object()", {}, "unknown", "not JSON serializable"),
    ("return None", {}, "unknown", "no message"),
    ("import torch_neuronx_missing", {}, "unknown", "No module named 'torch_neuronx_missing'"),
    ("open('/proc/self/mem/x')", {}, "unknown", "NotADirectoryError"),
    ("raise MemoryError", {"jobs": 1}, "host_memory", "was killed or refused memory"),
]  # fmt: skip


@pytest.mark.parametrize(("action", "request_", "cause", "told"), FAILURES)
def test_each_failure_has_its_words_and_keeps_the_log(
    tmp_path: Path, action: str, request_: dict[str, Any], cause: str, told: str
) -> None:
    source = f"""
        import os, sys

        def run(request, emit):
            print("about to fail")
            {action}
    """
    with pytest.raises(CompileError) as caught:
        run(tmp_path, source, request_)
    error = caught.value
    assert told in error.message
    assert error.cause == cause
    assert error.hint
    log = tmp_path / "job/worker.log"
    assert f"(log: {log})" in error.message
    assert "about to fail" in log.read_text()


def test_a_worker_that_cannot_be_read_fails_too(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="SyntaxError"):
        run(tmp_path, "def run(:")
    with pytest.raises(CompileError, match="has no attribute 'run'"):
        run(tmp_path, "pass")


def test_the_compilers_own_log_file_is_read(tmp_path: Path) -> None:
    source = """
        import os

        def run(request, emit):
            where = os.environ["BASE_COMPILE_WORK_DIR"] + "context_encoding_model/_tp0_bk0/"
            os.makedirs(where)
            with open(where + "log-neuron-cc.txt", "w") as file:
                file.write("ERROR: Too many instructions after unroll for function sg0000 !")
            raise RuntimeError("neuronx-cc failed with 70")
    """
    with pytest.raises(CompileError, match="more instructions than the compiler takes") as caught:
        run(tmp_path, source)
    assert caught.value.cause == "too_many_instructions"


@pytest.mark.parametrize("number", [2, 15])
def test_a_worker_that_somebody_else_interrupts(tmp_path: Path, number: int) -> None:
    source = f"""
        import os, time

        def run(request, emit):
            os.kill(os.getpid(), {number})
            time.sleep(600)
    """
    with pytest.raises(CompileInterruptedError) as caught:
        run(tmp_path, source)
    assert caught.value.exit_code == ExitCode.INTERRUPTED


RETRIES = """
    import concurrent.futures, os

    def run(request, emit):
        with open("attempts", "a") as file:
            file.write("x")
        workers = concurrent.futures.ThreadPoolExecutor()._max_workers
        if {condition}:
            {action}
        return {{"workers": workers, "flags": os.environ.get("NEURON_CC_FLAGS")}}
"""


def test_out_of_memory_is_tried_once_more_with_one_compiler(tmp_path: Path) -> None:
    seen: list[WorkerEvent] = []
    action = "raise RuntimeError('[F137] neuronx-cc was forcibly killed')"
    source = RETRIES.format(condition="request.get('jobs') != 1", action=action)
    assert run(tmp_path, source, observe=seen.append)["workers"] == 1
    assert "trying once more" in seen[-1].fields["text"]
    assert (tmp_path / "job/run/attempts").read_text() == "xx"
    assert (tmp_path / "job/worker-retry.log").exists()


def test_a_second_failure_is_final(tmp_path: Path) -> None:
    source = RETRIES.format(condition="True", action="os.kill(os.getpid(), 9)")
    with pytest.raises(CompileError, match=r"worker-retry\.log"):
        run(tmp_path, source)
    assert (tmp_path / "job/run/attempts").read_text() == "xx"


def test_what_no_retry_can_help_is_tried_once(tmp_path: Path) -> None:
    action = "raise RuntimeError('Too many instructions after unroll!')"
    with pytest.raises(CompileError):
        run(tmp_path, RETRIES.format(condition="True", action=action))
    assert (tmp_path / "job/run/attempts").read_text() == "x"


def test_a_remembered_failure_is_forgotten(tmp_path: Path) -> None:
    source = RETRIES.format(
        condition="'--retry_failed_compilation' not in os.environ.get('NEURON_CC_FLAGS', '')",
        action="raise RuntimeError('Got a cached failed neff at /c/MODULE_1+2/model.neff.')",
    )
    result = run(tmp_path, source, NEURON_CC_FLAGS="--verbose=35")
    assert result["flags"] == "--verbose=35 --retry_failed_compilation"


HANGS = """
    import threading, time

    def run(request, emit):
        threading.Thread(target=time.sleep, args=(600,)).start()
        {end}
"""


def test_a_worker_that_hangs_after_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.5)
    seen: list[WorkerEvent] = []
    source = HANGS.format(end="return {'ok': True}")
    assert run(tmp_path, source, observe=seen.append) == {"ok": True}
    assert "did not leave, so it was ended" in seen[-1].fields["text"]


def test_a_worker_that_hangs_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.5)
    with pytest.raises(CompileError, match="ValueError: no"):
        run(tmp_path, HANGS.format(end="raise ValueError('no')"))


def test_a_worker_that_hangs_up_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.5)
    source = """
        import os, time

        def run(request, emit):
            os.close(emit.__self__._descriptor)
            time.sleep(600)
    """
    with pytest.raises(CompileError, match="gave no result and did not leave"):
        run(tmp_path, source)


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    worker = write_worker(tmp_path, SURROUNDINGS)
    for python in (tmp_path / "missing", tmp_path):
        with pytest.raises(ToolchainError, match="cannot be started"):
            run_worker(python, worker, {}, directory=tmp_path / "job", environ={})
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho libpython3.8.so: cannot open >&2\nexit 127\n")
    python.chmod(0o755)
    with pytest.raises(CompileError, match="exit code 127") as caught:
        run_worker(python, worker, {}, directory=tmp_path / "job", environ=dict(os.environ))
    assert "libpython3.8.so" in caught.value.log


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    worker = write_worker(tmp_path, SURROUNDINGS)
    with pytest.raises(StoreError, match="cannot be used"):
        run_worker(PYTHON, worker, {}, directory=tmp_path / "file/job", environ={})


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    run(tmp_path, SURROUNDINGS)
    before = count()
    for action in ("return {}", "raise ValueError", "os._exit(1)"):
        with contextlib.suppress(CompileError):
            run(tmp_path, f"import os\ndef run(request, emit):\n    {action}")
    with pytest.raises(ToolchainError):
        run_worker(tmp_path / "none", tmp_path / "worker.py", {}, directory=tmp_path, environ={})
    assert count() == before


def test_large_results_and_long_messages(tmp_path: Path) -> None:
    big = run(tmp_path, "def run(request, emit):\n    return {'text': 'é' * 3_000_000}")
    assert len(big["text"]) == 3_000_000
    with pytest.raises(CompileError) as caught:
        run(tmp_path, "def run(request, emit):\n    raise RuntimeError('n' * 1_000_000)")
    assert len(caught.value.message) < 1000
    assert json.dumps(caught.value.message)
