"""Run a job and die by SIGKILL at its N-th audited step.

Python announces every open, rename, link, chmod, unlink, mkdir and foreign call through audit
hooks (PEP 578), so each effect on the file system is a step, without a hook in the product.

Usage: ``python -m tests.faults.kill_at N DIR`` publishes a small artifact into DIR; N of 0 never
dies and prints how many steps there were.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.artifact.artifacts import publish

EVENTS = ("open", "os.", "shutil.", "ctypes.", "fcntl.")


def main() -> None:
    fatal, directory = int(sys.argv[1]), Path(sys.argv[2])
    steps = 0

    def hook(event: str, _args: object) -> None:
        nonlocal steps
        if event.startswith(EVENTS) and not event.startswith("os.listdir"):
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    publish(directory)
    if not fatal:
        sys.stdout.write(f"{steps}\n")


if __name__ == "__main__":
    main()
