"""Small workers, written where a test wants them, and the processes they leave."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.worker import WorkerEvent, run_worker

PYTHON = Path(sys.executable)

SLEEPER = """
    import os, subprocess, sys, time

    def run(request, emit):
        # one compiler in our process group, one in a session of its own, and its child
        nap = [sys.executable, "-c", "import time; time.sleep(600)", request["mark"]]
        nest = "import subprocess, sys; subprocess.run(sys.argv[1:])"
        subprocess.Popen(nap)
        subprocess.Popen([sys.executable, "-c", nest, *nap], start_new_session=True)
        emit("phase", name="compile")
        emit("warning", text="started")
        {then}
"""
"""A worker with three sleeping descendants, which carry ``request["mark"]``."""


def write_worker(directory: Path, source: str) -> Path:
    path = directory / "worker.py"
    path.write_text(textwrap.dedent(source))
    return path


def run(
    directory: Path,
    source: str,
    request: Mapping[str, Any] | None = None,
    observe: Callable[[WorkerEvent], None] = lambda _event: None,
    **environ: str,
) -> Mapping[str, Any]:
    """Run a worker's source in ``directory/job``."""
    return run_worker(
        PYTHON, write_worker(directory, source), {"action": "compile", **(request or {})},
        directory=directory / "job", environ={**os.environ, **environ}, observe=observe,
    )  # fmt: skip


def processes(mark: str) -> list[int]:
    """Living processes with ``mark`` among their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in arguments and state not in "ZX":
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether ``condition`` came true; the limit only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
