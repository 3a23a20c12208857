"""Who uses which artifact, and when it was last used: what garbage collection goes by.

Small files beside the artifacts of a store: ``.leases/<key>/<owner>`` while a process holds one,
``.used/<key>`` whose mtime is the last use, ``.pins/<key>`` for what is never removed. All are
best effort: a store that cannot be written is served all the same, and is not collected either.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuron_artifacts.store.owner import ABANDONED_SECONDS, Owner, is_alive

STORE_NAME = "neuron-compiled-artifacts"

LEASES, USED, PINS, TRASH = ".leases", ".used", ".pins", ".trash"
CLOCK = ".clock-"
"""Begins the name of a file that is touched to learn the store's time."""
INTENT = ".intent"
"""Ends the name of the file by which a collector says what it is about to remove."""
RENEW_SECONDS = 1800.0
"""How often a lease is renewed, for other hosts, which cannot look the process up."""
_DECISION_SECONDS = 5.0


@contextmanager
def hold(artifact: Path, *, is_use: bool = True) -> Iterator[None]:
    """Keep an artifact of a store from being collected until the block ends.

    It counts as used thereby, unless ``is_use`` is false: to check it is no reason to keep it.

    Lease first, then a look for a collector's intent; the collector writes its intent first and
    looks for leases then. So one of the two sees the other: the collector leaves the artifact
    alone, or this waits until it has decided.
    """
    artifact = _as_its_store_names_it(artifact)
    lease = _write_lease(artifact)
    if lease is None:
        yield
        return
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, stop), name="lease", daemon=True)
    renewing.start()
    try:
        if is_use:
            mark_used(artifact)
        _await_decision(artifact)
        yield
    finally:
        stop.set()
        with suppress(OSError):
            lease.unlink()


def mark_used(artifact: Path) -> None:
    """Remember that an artifact was wanted now."""
    artifact = _as_its_store_names_it(artifact)
    with suppress(OSError):
        if artifact.parent.name == STORE_NAME:
            place = artifact.parent / USED
            place.mkdir(exist_ok=True)
            (place / artifact.name).touch()


def last_used(artifact: Path) -> float:
    """When it was last wanted, in the file system's own seconds; else when it was made."""
    times = []
    for path in (artifact.parent / USED / artifact.name, artifact):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def holders(artifact: Path, now: float) -> tuple[str, ...]:
    """Leases on an artifact whose owners may still live. ``now`` is :func:`store_time`.

    Raises
    ------
    OSError
        It cannot be known: nobody may then act as if there were none.
    """
    found = []
    with suppress(FileNotFoundError):
        for path in (artifact.parent / LEASES / artifact.name).iterdir():
            if _may_live(path, now):
                found.append(path.name)
    return tuple(sorted(found))


def collect_leases(root: Path, now: float) -> None:
    """Remove leases whose owners are gone, and what is kept about artifacts that are gone."""
    with suppress(OSError):
        for folder in (root / LEASES).iterdir():
            for path in folder.iterdir():
                if not _may_live(path, now):
                    path.unlink(missing_ok=True)
            if not (root / folder.name).exists():
                with suppress(OSError):
                    folder.rmdir()
    with suppress(OSError):
        for path in (root / USED).iterdir():
            if not (root / path.name).exists():
                path.unlink(missing_ok=True)


def store_time(root: Path) -> float:
    """Now, by the clock that stamps the store's files, which may not be this machine's.

    Raises
    ------
    OSError
        The store cannot be written.
    """
    probe = root / f"{CLOCK}{Owner.current().token}-{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        with suppress(OSError):
            probe.unlink()


def pin(artifact: Path) -> None:
    """Never collect this artifact."""
    place = artifact.parent / PINS
    place.mkdir(exist_ok=True)
    (place / artifact.name).touch()


def unpin(artifact: Path) -> bool:
    """Let an artifact be collected again; whether it was pinned."""
    try:
        (artifact.parent / PINS / artifact.name).unlink()
    except FileNotFoundError:
        return False
    return True


def is_pinned(artifact: Path) -> bool:
    """Whether it is never to be collected.

    Raises
    ------
    OSError
        It cannot be known.
    """
    try:
        (artifact.parent / PINS / artifact.name).lstat()
    except FileNotFoundError:
        return False
    return True


def _as_its_store_names_it(artifact: Path) -> Path:
    """An artifact may be served through a link, as ``current``; it is collected by its key."""
    with suppress(OSError, RuntimeError):
        real = artifact.resolve()
        if real.parent.name == STORE_NAME:
            return real
    return artifact.absolute()


def _write_lease(artifact: Path) -> Path | None:
    if artifact.parent.name != STORE_NAME:
        return None  # nobody collects there, and the folder is not ours to write into
    folder = artifact.parent / LEASES / artifact.name
    lease = folder / f"{Owner.current().token}-{secrets.token_hex(4)}"
    for _ in range(100):  # a collector may remove the empty folder under our hands
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lease.touch()
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return lease
    return None


def _renew(lease: Path, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        with suppress(OSError):
            os.utime(lease)


def _await_decision(artifact: Path) -> None:
    """A collector that died in between is not waited for longer than a moment."""
    deadline = time.monotonic() + _DECISION_SECONDS
    trash = artifact.parent / TRASH
    while any(trash.glob(f"{artifact.name}-*{INTENT}")) and time.monotonic() < deadline:
        time.sleep(0.005)


def _may_live(lease: Path, now: float) -> bool:
    owner = Owner.parse(lease.name)
    alive = is_alive(owner) if owner else None
    if alive is not None:
        return alive
    try:
        return abs(now - lease.stat().st_mtime) <= ABANDONED_SECONDS
    except FileNotFoundError:
        return False
    except OSError:
        return True
