"""Run a job over and over, each time in a process that dies by SIGKILL at its N-th audited step.

Python announces every open, rename, link, chmod, unlink, mkdir and foreign call through audit
hooks (PEP 578), so each effect on the file system is a step, without a hook in the product.

Usage: ``python -m tests.faults.kill_at JOB DIR``; prints one JSON object a step: what can be seen
after the death, what after another run of the job, and what lies about then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.faults.jobs import JOBS, Job, litter

EVENTS = ("open", "os.", "shutil.", "ctypes.", "fcntl.")


def is_step(event: str) -> bool:
    return event.startswith(EVENTS) and not event.startswith(("os.listdir", "os.scandir"))


def die_at(fatal: int, job: Job, directory: Path) -> bool:
    """Whether a child that does the job was killed before it was done."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    steps = 0

    def hook(event: str, _args: object) -> None:
        nonlocal steps
        if is_step(event):
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = 1
    try:
        job.work(directory)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    job, directory = JOBS[sys.argv[1]], Path(sys.argv[2])
    job.prepare(directory / "warm")
    job.work(directory / "warm")
    for step in range(1, 2000):
        place = directory / str(step)
        job.prepare(place)
        was_killed = die_at(step, job, place)
        visible = job.visible(place)
        job.prepare(place)
        job.work(place)
        row = {
            "step": step, "killed": was_killed, "visible": visible, "again": job.visible(place),
            "litter": [str(path) for path in litter(place)],
        }  # fmt: skip
        sys.stdout.write(json.dumps(row) + "\n")
        if not was_killed:
            break


if __name__ == "__main__":
    main()
