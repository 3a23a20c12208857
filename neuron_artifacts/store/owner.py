"""Who is working on something, and whether they still are, without trusting a lock."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from dataclasses import astuple, dataclass
from pathlib import Path

ABANDONED_SECONDS = 3 * 24 * 3600
"""How long another host's work may lie untouched before it counts as abandoned: more than a clock
that was set wrong is off by, a day and what a time zone adds."""

_TOKEN = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-(\d+)-(\d+)")


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one that got the same number.

    Host (its name and machine id, for names repeat), boot and process namespace are short digests.
    A temporary directory carries its owner
    in its name, so that there is no moment in which it lies there without one.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> Owner:
        host = f"{socket.gethostname()} {_read('/etc/machine-id')}"
        boot, namespace = _short(_boot_id()), _short(_pid_namespace())
        started = _started("self")
        # A token with two dashes is nobody's: then only time tells.
        return cls(_short(host), boot, namespace, os.getpid(), -1 if started is None else started)

    @property
    def token(self) -> str:
        return "-".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The owner whose token ``text`` contains."""
        match = _TOKEN.search(text)
        if not match:
            return None
        host, boot, namespace, pid, started = match.groups()
        return cls(host, boot, namespace, int(pid), int(started))


def is_alive(owner: Owner) -> bool | None:
    """Whether a process lives, as far as it can be known from here: else ``None``."""
    me = Owner.current()
    # Some sandboxes tell neither boot nor namespace: two of them would take each other for one.
    if owner.host != me.host or _short("") in (me.boot, me.namespace):
        return None
    if owner.boot != me.boot:
        return False
    if owner.namespace != me.namespace:
        return None
    started = _started(str(owner.pid))
    if started is None:
        return None if _exists(owner.pid) else False
    return started == owner.started


def is_abandoned(directory: Path, *, now: float | None = None) -> bool:
    """Whether nobody can still be writing into a temporary directory.

    On this host the owner's process is looked up; for another host, another container, or a
    directory without an owner only time tells.
    """
    owner = Owner.parse(directory.name)
    alive = is_alive(owner) if owner else None
    if alive is not None:
        return not alive
    now = time.time() if now is None else now
    try:
        newest = max((p.lstat().st_mtime for p in directory.rglob("*")), default=0.0)
        newest = max(newest, directory.stat().st_mtime)
    except OSError:
        return False
    return abs(now - newest) > ABANDONED_SECONDS


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: str) -> int | None:
    """Start time in clock ticks since boot (proc(5), field 22 of ``stat``); -1 if not alive.

    ``None`` where it cannot be read: there is no such process, it is hidden, or we are in trouble.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else -1


def _exists(pid: int) -> bool:
    """Whether there is such a process, of whatever user, as a system call tells it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
