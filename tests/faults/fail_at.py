"""Run a job over and over, each time with one file operation failing.

An audit hook (PEP 578) may raise, and the operation it announces then fails with that error, as
it would on a full, read-only or broken disk.

Usage: ``python -m tests.faults.fail_at JOB ERRNO DIR``; prints one JSON object a step: what the
job raised, and what can be seen afterwards.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import NeuronArtifactsError
from tests.faults.jobs import JOBS
from tests.faults.kill_at import EVENTS

_state: dict[str, Any] = {"step": 0, "fatal": 0, "errno": 0, "place": ""}


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not _state["fatal"] or not event.startswith(EVENTS) or event.startswith("shutil."):
        return
    first = args[0] if args else None
    is_path = isinstance(first, (str, bytes, os.PathLike))
    if is_path and not os.fsdecode(first).startswith(_state["place"]):  # type: ignore[arg-type]
        return  # an import, not the job's
    _state["step"] += 1
    if _state["step"] == _state["fatal"]:
        raise OSError(_state["errno"], os.strerror(_state["errno"]), str(args[0] if args else ""))


def attempt(name: str, directory: Path, fatal: int) -> dict[str, object]:
    job = JOBS[name]
    job.prepare(directory)
    _state.update(step=0, fatal=fatal, place=str(directory))
    raised = "nothing"
    try:
        job.work(directory)
    except NeuronArtifactsError as error:
        raised = type(error).__name__
    except BaseException as error:  # noqa: BLE001 - the test wants to know of every one
        raised = f"!{type(error).__name__}: {error}"
    reached = _state["step"] >= fatal
    _state["fatal"] = 0
    statuses = job.visible(directory)
    job.prepare(directory)
    job.work(directory)
    return {"step": fatal, "raised": raised, "statuses": statuses, "reached": reached}


def main() -> None:
    name, directory = sys.argv[1], Path(sys.argv[3])
    _state["errno"] = getattr(errno, sys.argv[2])
    JOBS[name].prepare(directory / "warm")
    JOBS[name].work(directory / "warm")
    sys.addaudithook(_hook)
    for step in range(1, 2000):
        row = attempt(name, directory / str(step), step)
        sys.stdout.write(json.dumps(row) + "\n")
        if not row["reached"]:
            break


if __name__ == "__main__":
    main()
