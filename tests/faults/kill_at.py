"""Run a job and die by SIGKILL at its N-th audited step.

Python announces every open, rename, link, chmod, unlink, mkdir and foreign call through audit
hooks (PEP 578), so each effect on the file system is a step, without a hook in the product.

Usage: ``python -m tests.faults.kill_at JOB N DIR``; N of 0 never dies and prints how many steps
there were.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.faults.jobs import JOBS

EVENTS = ("open", "os.", "shutil.", "ctypes.", "fcntl.")


def is_step(event: str) -> bool:
    return event.startswith(EVENTS) and not event.startswith(("os.listdir", "os.scandir"))


def main() -> None:
    name, fatal, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    prepare, job = JOBS[name]
    prepare(directory)
    steps = 0

    def hook(event: str, _args: object) -> None:
        nonlocal steps
        if is_step(event):
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    job(directory)
    if not fatal:
        sys.stdout.write(f"{steps}\n")


if __name__ == "__main__":
    main()
