"""Run commands in turn, so that a machine that drifts drifts for both."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def timed(command: Sequence[str], **options: Any) -> float:
    """Wall seconds of a whole process that must succeed."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.monotonic() - began


def run_child(module: str, *arguments: str, threads: int) -> dict[str, Any]:
    """Run a module of this package in a fresh process; its last line is JSON.

    ``spawned`` (``time.monotonic()`` is one clock for the whole machine) lets the child say how
    long after being started it had its first token.
    """
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", module, *arguments]
    environ["BENCHMARK_SPAWNED"] = repr(time.monotonic())
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


def since_spawned() -> float:
    return time.monotonic() - float(os.environ["BENCHMARK_SPAWNED"])


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    cores = len(os.sched_getaffinity(0))
    return f"{now}, {model}, {cores} cores, Python {platform.python_version()}"


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
