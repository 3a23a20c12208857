"""Start a worker under its guard, listen to it, and be sure that it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import write_atomically
from neuron_artifacts.errors import StoreError, ToolchainError
from neuron_artifacts.worker.messages import Message, MessageReader

LOG_LIMIT = 16 << 20
"""Bytes of output that are kept, see :mod:`.guard`."""
EXIT_SECONDS = 30.0
"""How long a worker that has said its last word may take to leave."""
TICK_SECONDS = 1.0

_GUARD, _BOOTSTRAP = (Path(__file__).with_name(name) for name in ("guard.py", "bootstrap.py"))


@dataclass(frozen=True)
class Job:
    """What to run. ``directory`` is the job's own: no other live job may use it.

    Below it lie ``compile/`` (``BASE_COMPILE_WORK_DIR``), ``run/`` (the working directory, where
    NxD leaves HLO files), the request and the log. Its path is part of the key under which
    Neuron's persistent cache keeps a graph, so the same job should get the same directory.
    """

    python: Path
    worker: Path
    request: Mapping[str, Any]
    directory: Path
    environ: Mapping[str, str]
    log: Path

    @property
    def compile_directory(self) -> Path:
        return self.directory / "compile"


def environment(job: Job) -> dict[str, str]:
    """The caller's variables, with those that a reproducible, private compile needs.

    A LoRA configuration depends on the hash seed, and libneuronxla looks for ``neuronx-cc`` on
    ``PATH``, where it is only if its virtual environment was activated. What could bring in other
    libraries than the probe has seen, and so the key names, is left out.
    """
    path = [str(job.python.parent), job.environ.get("PATH", os.defpath)]
    kept = {n: v for n, v in job.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    return {
        **kept,
        "PYTHONNOUSERSITE": "1",
        "BASE_COMPILE_WORK_DIR": f"{job.compile_directory}{os.sep}",
        "PATH": os.pathsep.join(path),
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }


class Worker:
    """A running worker. Whatever happens to this process, the worker and its compilers end.

    Raises
    ------
    ToolchainError
        The interpreter cannot be started.
    StoreError
        The job's directory cannot be written.
    """

    def __init__(self, job: Job, *, serve: bool = False) -> None:
        self.job = job
        self.pid: int | None = None
        self._calls: int | None = None
        events, events_in = os.pipe()
        self._events: int | None = events
        passed, ends = [events_in], [str(events_in)]
        if serve:
            calls_out, self._calls = os.pipe()
            passed.append(calls_out)
            ends.append(str(calls_out))
        try:
            self._process = _start(job, passed, ends)
        except BaseException:
            self._close_pipes()
            raise
        finally:
            for descriptor in passed:
                os.close(descriptor)
        self._reader = MessageReader(events)

    def read(self) -> Message | None:
        """The next message; ``None`` when the worker will send no more.

        Raises
        ------
        BrokenMessageError
            See :class:`.messages.MessageReader`.
        """
        while True:
            gone = self._process.poll() is not None
            try:
                message = self._reader.read(0.0 if gone else TICK_SECONDS)
            except TimeoutError:
                if not gone:
                    continue
                self._kill_group()  # the guard was killed: its children hold the pipe
                return None
            if message and message.event == "started":
                self.pid = message.fields["pid"]
                continue
            return message

    def send(self, message: Mapping[str, Any]) -> None:
        """Pass a call to a worker that serves.

        Raises
        ------
        BrokenPipeError
            It is gone.
        """
        if self._calls is None:
            raise BrokenPipeError
        view = memoryview(json.dumps(message).encode("ascii") + b"\n")
        while view:
            view = view[os.write(self._calls, view) :]

    def finish(self, seconds: float | None = None) -> int | None:
        """Wait for the worker to leave by itself, else end it.

        Returns its exit code, negative for a signal; ``None`` if it had to be ended.
        """
        self._close_calls()
        try:
            code: int | None = self._process.wait(EXIT_SECONDS if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            code = None
        self.stop()
        return code

    def stop(self) -> None:
        """End the worker and all it started; returns when they are gone."""
        self._close_pipes()
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()  # the guard's lifeline
        while self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self._process.wait(TICK_SECONDS)  # the guard needs seconds, even for a second ^C

    def _kill_group(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _close_calls(self) -> None:
        if self._calls is not None:
            os.close(self._calls)
            self._calls = None

    def _close_pipes(self) -> None:
        self._close_calls()
        if self._events is not None:
            os.close(self._events)
            self._events = None


def _start(job: Job, passed: list[int], ends: list[str]) -> subprocess.Popen[bytes]:
    request = job.directory / "request.json"
    try:
        working_directory = job.directory / "run"
        for directory in (job.compile_directory, working_directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_atomically(request, json.dumps(job.request).encode(), mode=0o600)
        log = job.log.open("w+b")
    except OSError as error:
        raise StoreError(f"{job.directory} cannot be used: {error.strerror}") from error
    python = str(job.python)
    guard = [python, str(_GUARD), str(LOG_LIMIT), ",".join(map(str, passed))]
    worker = [python, str(_BOOTSTRAP), str(job.worker), str(request), *ends]
    with log:
        try:
            return subprocess.Popen(
                guard + worker, cwd=working_directory, env=environment(job),
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=passed,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ToolchainError(
                f"{job.python} cannot be started: {error.strerror}",
                hint="neuron-artifacts doctor lists the interpreters that can",
            ) from error
