"""The command line as a user runs it: a process, its two streams and its exit code."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOL = (sys.executable, "-m", "neuron_artifacts")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object, cwd: Path | None = None, stdin: str = "", **environ: str) -> Result:
    """Run ``neuron-artifacts``; no traceback may ever show."""
    process = subprocess.run(
        [*TOOL, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", **environ},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return Result(process.returncode, process.stdout, process.stderr)


def run_on_terminal(place: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run it with a terminal for all three streams; gives exit code and what a person sees."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TOOL, *arguments], cwd=place, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environ},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux says EIO when the other side is closed
        pass
    finally:
        os.close(ours)
    return process.wait(timeout=60), shown.decode()
