"""Run a vLLM server over an artifact, and end it as soon as it starts to compile."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from neuron_artifacts.errors import ExitCode, IncompatibleError, ServeError, ToolchainError
from neuron_artifacts.runtime.vllm.recipes import Recipe
from neuron_artifacts.runtime.vllm.view import Snapshot, first_difference, take_snapshot
from neuron_artifacts.runtime.vllm.watch import LogEvent, read_line

TICK_SECONDS = 0.5
"""How often the offered folder is looked at, and how soon a signal is acted upon."""
END_SECONDS = 10.0
"""How long an ended server may take to close its output."""

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Launch:
    """What to start: ``offered`` is the folder the server loads from, ``directory`` its own."""

    python: Path
    recipe: Recipe
    environ: Mapping[str, str]
    directory: Path
    offered: Path
    shutdown_timeout: float = 30.0
    ready_timeout: float | None = None


def run_server(
    launch: Launch, *, on_ready: Callable[[float], None], on_line: Callable[[str], None]
) -> ExitCode:
    """Run until the server is stopped by a signal: ``OK`` if it had left by itself then.

    ``on_ready`` gets the seconds that loading took, ``on_line`` every line the server prints.
    Call it from the main thread: it takes SIGINT, SIGTERM and SIGHUP.

    Raises
    ------
    IncompatibleError
        It began to compile, so it was ended.
    ServeError
        It ended by itself, or was not ready in time.
    ToolchainError
        The interpreter cannot be started.
    """
    with _Server(launch, on_line) as server, _stopping_with(server):
        return server.watch(on_ready)


class _Server:
    """A vLLM process with all it starts; leaving the block ends them."""

    def __init__(self, launch: Launch, on_line: Callable[[str], None]) -> None:
        self._launch = launch
        self._on_line = on_line
        self._began = time.monotonic()
        self._untouched: Snapshot = take_snapshot(launch.offered)
        self._events: queue.Queue[LogEvent | None] = queue.Queue()
        self._last_error: str | None = None
        self._stops = 0
        self._kill_at = float("inf")
        self._was_killed = False
        self._process = _start(launch)
        self._pump = threading.Thread(target=self._read, name="vllm-output", daemon=True)
        self._pump.start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()
        self._pump.join(END_SECONDS)

    def stop(self, number: int) -> None:
        """What a signal does: let it finish its requests; a second one ends it at once."""
        self._stops += 1
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM if self._stops == 1 else signal.SIGKILL)
        self._kill_at = time.monotonic() + self._launch.shutdown_timeout
        del number

    def watch(self, on_ready: Callable[[float], None]) -> ExitCode:
        is_ready = False
        while self._process.poll() is None:
            event = self._next_event()
            if event and event.kind == "error":
                self._last_error = event.line
            elif event and event.kind == "ready" and not is_ready:
                is_ready = True
                on_ready(round(time.monotonic() - self._began, 3))
            if not is_ready:
                self._check_start(event)
            if time.monotonic() > self._kill_at:
                self._was_killed = True
                self._kill()
        return self._report(is_ready)

    def _check_start(self, event: LogEvent | None) -> None:
        """Until it is ready: is it compiling, and is it in time?"""
        self._refuse_compiling(event)
        limit = self._launch.ready_timeout
        if limit is not None and not self._stops and time.monotonic() - self._began > limit:
            raise ServeError(
                f"vLLM was not ready after {limit:g} seconds",
                hint="its output is above; a large model may need a longer --ready-timeout",
            )

    def _refuse_compiling(self, event: LogEvent | None) -> None:
        said = event.line if event and event.kind == "recompiling" else None
        changed = first_difference(self._untouched, take_snapshot(self._launch.offered))
        if said is None and changed is None:
            return
        self._kill()
        why = said or f"it wrote {changed}"
        raise IncompatibleError(
            f"vLLM did not load the artifact and began to compile ({why})",
            hint="the artifact is untouched; the lines above say what vLLM missed. Serve it with "
            "the libraries it was compiled with, or compile it again",
        )

    def _report(self, was_ready: bool) -> ExitCode:
        self._kill()  # what it may have left behind holds its output open
        self._pump.join(END_SECONDS)
        while (event := self._next_event(wait=False)) is not None:
            if event.kind == "error":
                self._last_error = event.line
            elif event.kind == "recompiling" and not was_ready:
                self._refuse_compiling(event)
        if self._stops:
            return ExitCode.INTERRUPTED if self._was_killed or self._stops > 1 else ExitCode.OK
        if not was_ready:
            self._refuse_compiling(None)
        when = "" if was_ready else " before it was ready"
        why = f": {self._last_error}" if self._last_error else ""
        raise ServeError(
            f"vLLM ended with {_describe(self._process.returncode)}{when}{why}",
            hint="its output is above",
        )

    def _next_event(self, *, wait: bool = True) -> LogEvent | None:
        try:
            return self._events.get(wait, TICK_SECONDS)
        except queue.Empty:
            return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._on_line(line.rstrip("\n"))
            event = read_line(line)
            if event:
                self._events.put(event)

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _start(launch: Launch) -> subprocess.Popen[str]:
    command = [str(launch.python), *launch.recipe.arguments]
    try:
        return subprocess.Popen(
            command, cwd=launch.directory, env=_environment(launch), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
            start_new_session=True, preexec_fn=_die_with(os.getpid()),
        )  # fmt: skip
    except OSError as error:
        raise ToolchainError(
            f"{launch.python} cannot be started: {error.strerror}",
            hint="neuron-artifacts doctor lists the interpreters that can",
        ) from error


def _environment(launch: Launch) -> dict[str, str]:
    environ = {k: v for k, v in launch.environ.items() if k not in launch.recipe.unset}
    path = (str(launch.python.parent), environ.get("PATH", os.defpath))
    return {
        **environ,
        **launch.recipe.environ,
        "PATH": os.pathsep.join(path),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }


def _die_with(parent: int) -> Callable[[], None]:
    """Ends the server if this process is killed: SIGTERM, so that it ends its own workers."""
    prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None

    def tie() -> None:
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)

    return tie


@contextmanager
def _stopping_with(server: _Server) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        server.stop(number)

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
