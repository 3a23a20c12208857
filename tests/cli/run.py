"""The command line as a user runs it: a process, its two streams and its exit code."""

from __future__ import annotations

import json
import os
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
