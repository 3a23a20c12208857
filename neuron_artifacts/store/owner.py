"""Who is working on something, and whether they still are, without trusting a lock."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

OWNER_NAME = ".owner"
ABANDONED_SECONDS = 24 * 3600
"""How long another host's work may lie untouched before it counts as abandoned."""


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one that got the same number."""

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Owner:
        return cls(
            socket.gethostname(), _boot_id(), _pid_namespace(), os.getpid(), _started("self")
        )

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def read_owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_abandoned(directory: Path, *, now: float | None = None) -> bool:
    """Whether nobody can still be writing into a temporary directory.

    On this host the owner's process is looked up; for another host, another container, or a
    directory without an owner only time tells.
    """
    owner = read_owner(directory / OWNER_NAME)
    me = Owner.current()
    if owner and owner.host == me.host:
        if owner.boot != me.boot:
            return True
        if owner.pid_namespace == me.pid_namespace:
            return _started(str(owner.pid)) != owner.started
    now = time.time() if now is None else now
    try:
        newest = max((p.lstat().st_mtime for p in directory.rglob("*")), default=0.0)
        newest = max(newest, directory.stat().st_mtime)
    except OSError:
        return False
    return abs(now - newest) > ABANDONED_SECONDS


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: str) -> str:
    """Start time in clock ticks since boot (proc(5), field 22 of ``stat``); empty if not alive."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
