"""System calls that fail as the kernel would have them fail, put in from outside by ``strace``.

Nothing in the process knows of it: one call of one thread gets another answer. Which calls there
are is seen in a run without faults; those that touch the folder under test are candidates, and what
the interpreter does while it starts is not.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TOOL = (sys.executable, "-m", "neuron_artifacts")

CALLS = (
    "openat", "read", "pread64", "write", "pwrite64", "copy_file_range", "sendfile", "fsync",
    "rename", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "ftruncate",
    "chmod", "fchmod", "ioctl", "flock", "fcntl", "mmap", "getdents64", "newfstatat", "fstat",
    "lstat", "stat", "statx", "utimensat", "lseek", "symlink", "readlink",
)  # fmt: skip

_STEADY = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120"}
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_WORKING_DIRECTORY = re.compile(r"AT_FDCWD<[^>]*>")


@dataclass(frozen=True)
class Fault:
    """The ``when``-th ``call`` of a thread gets ``answer``, as ``error=EIO`` or ``retval=1``."""

    call: str
    when: int
    answer: str

    def __str__(self) -> str:
        return f"{self.call}:{self.answer}:when={self.when}"


@dataclass(frozen=True)
class Outcome:
    """How the process ended, and the line of the call that was hit, if any in the folder was."""

    code: int
    out: str
    err: str
    hit: str


@functools.cache
def reason_to_skip() -> str:
    """Why system calls cannot be put at fault here; empty if they can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    command = ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "-e", "inject=fsync:error=EIO"]
    probe = [sys.executable, "-c", "import os; os.fsync(0)"]
    with Path(os.devnull).open("rb") as null:
        done = subprocess.run(
            [*command, *probe], stdin=null, capture_output=True, text=True, check=False
        )
    failed = "Input/output error" in done.stderr
    return "" if failed else f"strace may not trace here: {done.stderr.strip()[-200:]}"


def find_calls(
    words: Sequence[object], place: Path, log: Path, environ: Mapping[str, str]
) -> dict[str, list[int]]:
    """Run without a fault; for each call, the numbers of those that touch ``place``.

    Numbers count from 1 in each thread, as ``when=`` does.
    """
    done = _strace(words, log, environ, ["-e", f"trace={','.join(CALLS)}"])
    assert done.returncode == 0, done.stderr
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[str, set[int]] = {}
    for thread, call, rest in _lines(log):
        counts[thread, call] += 1
        if str(place) in rest:
            found.setdefault(call, set()).add(counts[thread, call])
    return {call: sorted(numbers) for call, numbers in found.items()}


def run_with(
    fault: Fault, words: Sequence[object], place: Path, log: Path, environ: Mapping[str, str]
) -> Outcome:
    """Run the tool with one fault."""
    inject = f"inject={fault.call}:{fault.answer}:when={fault.when}"
    done = _strace(words, log, environ, ["-e", f"trace={fault.call}", "-e", inject])
    mark = "INJECTED" if "signal" not in fault.answer else "= ?"
    hits = [rest for _, _, rest in _lines(log) if mark in rest]
    if "signal" in fault.answer and done.returncode < 0:
        hits = [f"{fault} {place}"]
    return Outcome(
        done.returncode,
        done.stdout,
        done.stderr,
        hits[0] if all(str(place) in hit for hit in hits) and hits else "",
    )


def _strace(
    words: Sequence[object], log: Path, environ: Mapping[str, str], options: list[str]
) -> subprocess.CompletedProcess[str]:
    log.unlink(missing_ok=True)
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-o", str(log), *options]
    return subprocess.run(
        [*command, *TOOL, *map(str, words)],
        cwd="/", env={**os.environ, **_STEADY, **environ},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def _lines(log: Path) -> Iterator[tuple[str, str, str]]:
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match:
            thread, call, rest = match.groups()
            yield thread, call, _WORKING_DIRECTORY.sub("", rest)
