"""Keeps a worker, and everything it starts, from outliving the process that asked for it.

Run as a script by the toolchain's interpreter (Python 3.8 or later, standard library only)::

    python guard.py LOG_LIMIT FD,FD,… COMMAND…

Standard input is a pipe whose other end the host holds: when that closes, or the host is gone,
the command gets SIGINT and then SIGKILL. Compilers that left its process group are found too,
because orphans are handed to the guard (``PR_SET_CHILD_SUBREAPER``, prctl(2)). What the command
prints goes to the guard's standard output, a file of which the beginning and the end are kept.
The guard ends as the command ended: with its exit code, or by its signal.
"""

from __future__ import annotations

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the folder of this file: what lies beside it is not for others to import

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 5.0
"""How long an interrupted worker may take to clean up."""
SWEEP_SECONDS = 10.0
"""How long to wait for killed orphans: one stuck in the kernel must not hold us for ever."""
TICK_SECONDS = 1.0
CHUNK = 1 << 16

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Log:
    """A file that stays below ``limit`` bytes: its first eighth and its last part survive."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._file, self._limit, self._left_out = descriptor, limit, 0
        self._size = os.fstat(descriptor).st_size

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk ends the log, not the compile
            while data:
                data = data[self._append(data) :]

    def _append(self, data: bytes) -> int:
        written = os.write(self._file, data)
        self._size += written
        if self._size > self._limit:
            self._shorten()
        return written

    def _shorten(self) -> None:
        head, tail = self._limit // 8, self._limit // 2
        kept = os.pread(self._file, tail, self._size - tail)
        self._left_out += self._size - head - len(kept)
        note = f"\n[about {self._left_out} bytes left out]\n".encode()
        os.ftruncate(self._file, head)
        os.lseek(self._file, head, os.SEEK_SET)
        self._size = head + os.write(self._file, note + kept)


class Wakeup:
    """A descriptor that becomes readable when a signal arrives (a child's end among them)."""

    def __init__(self) -> None:
        self.stopped = False
        self.descriptor, written = os.pipe()
        for end in (self.descriptor, written):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(written)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in STOPS:
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True


def start(argv: tuple[str, ...], passed: list[int], printed: int) -> subprocess.Popen[bytes]:
    """The command in a session of its own, which dies with the guard."""
    guard = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
    if prctl:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def die_with_guard() -> None:
        if prctl:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before prctl
            os._exit(1)

    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, pass_fds=passed,
        start_new_session=True, preexec_fn=die_with_guard,
    )  # fmt: skip


def watch(
    command: subprocess.Popen[bytes], output: int, log: Log, host: int, wakeup: Wakeup
) -> None:
    """Pump the command's output until it ends, or has been ended because the host is gone."""
    lifeline, sources = 0, [0, output, wakeup.descriptor]
    deadline: float | None = None
    while command.poll() is None:
        ready = select.select(sources, [], [], TICK_SECONDS)[0]
        if output in ready and not pump(output, log):
            sources.remove(output)  # it closed its output and lives on
        if wakeup.descriptor in ready:
            os.read(wakeup.descriptor, CHUNK)
        if deadline is None:
            if lifeline in ready or wakeup.stopped or os.getppid() != host:
                sources.remove(lifeline)
                send(command.pid, signal.SIGINT)
                deadline = time.monotonic() + GRACE_SECONDS
        elif time.monotonic() > deadline:
            send(command.pid, signal.SIGKILL)


def pump(output: int, log: Log) -> bool:
    data = os.read(output, CHUNK)
    log.write(data)
    return bool(data)


def send(group: int, number: int) -> None:
    # Nobody may lead a group of that number, or it is not ours.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def sweep(group: int, output: int, log: Log) -> None:
    """Kill whatever the command left behind, wherever it hid, and log its last words."""
    send(group, signal.SIGKILL)
    deadline = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < deadline:
        for pid in children():
            send(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not ended:
            time.sleep(0.01)
    while select.select([output], [], [], 0)[0] and pump(output, log):
        pass


def children() -> list[int]:
    """Process numbers whose parent is the guard (proc(5), field 4 of ``stat``)."""
    me, found = str(os.getpid()), []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is gone
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if fields[1:2] == [me]:
                found.append(int(stat.parent.name))
    return found


def end_like(code: int) -> None:
    """Exit with the command's code, or by its signal and without a core file of our own."""
    if code >= 0:
        sys.exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def main(limit: str, descriptors: str, *argv: str) -> None:
    host, wakeup = os.getppid(), Wakeup()
    passed = [int(text) for text in descriptors.split(",") if text]
    output, printed = os.pipe()
    command = start(argv, passed, printed)
    for descriptor in (*passed, printed):
        os.close(descriptor)
    log = Log(1, int(limit))
    watch(command, output, log, host, wakeup)
    sweep(command.pid, output, log)
    end_like(command.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
