"""Garbage collection of a local store: a pure plan, and a removal nobody can be surprised by.

An artifact is moved to ``.trash`` first and looked at once more: a lease that appeared meanwhile
brings it back. So nothing goes that a living process reads.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts._files import find_stale_temporaries
from neuron_artifacts.errors import StoreError
from neuron_artifacts.store.failures import FAILED, collect_failures
from neuron_artifacts.store.leases import (
    CLOCK,
    INTENT,
    TRASH,
    collect_leases,
    holders,
    is_pinned,
    last_used,
    store_time,
)
from neuron_artifacts.store.local import LOCKS, LocalStore, is_ours
from neuron_artifacts.store.owner import Owner, is_abandoned
from neuron_artifacts.store.staging import rename_without_replacing, storing

SET_ASIDE = ".set-aside"

Inode = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """One directory of a store. ``inodes`` maps each file to its bytes on disk.

    ``holders`` are live leases. ``is_broken`` marks what was set aside.
    """

    path: Path
    last_used: float
    inodes: Mapping[Inode, int]
    pinned: bool = False
    holders: tuple[str, ...] = ()
    is_broken: bool = False

    @property
    def is_protected(self) -> bool:
        return self.pinned or bool(self.holders)


@dataclass(frozen=True)
class Removal:
    """What goes and why; ``freed`` counts bytes that no other entry shares."""

    entry: Entry
    reason: str
    freed: int


@dataclass(frozen=True)
class CollectionPlan:
    """What would go, what stays although a limit is exceeded, and sizes before and after."""

    removals: tuple[Removal, ...]
    protected: tuple[Entry, ...]
    size: int

    @property
    def freed(self) -> int:
        return sum(removal.freed for removal in self.removals)


def plan_collection(
    entries: Sequence[Entry],
    *,
    now: float,
    max_size: int | None = None,
    older_than: float | None = None,
    keep: int = 0,
) -> CollectionPlan:
    """Least recently used first; what was set aside before what is whole.

    Parameters
    ----------
    max_size:
        Bytes the store may take; the least recently used go until it fits.
    older_than:
        Seconds; whatever was not used for longer goes.
    keep:
        The most recently used artifacts that stay in any case.
    """
    whole = sorted((e for e in entries if not e.is_broken), key=lambda e: -e.last_used)
    kept = {entry.path for entry in whole[:keep]}
    order = sorted(entries, key=lambda e: (not e.is_broken, e.last_used))
    shares = Counter(inode for entry in entries for inode in entry.inodes)
    sizes = {inode: size for entry in entries for inode, size in entry.inodes.items()}
    left = total = sum(sizes.values())
    removals, protected = [], []
    for entry in order:
        old = older_than is not None and now - entry.last_used > older_than
        big = max_size is not None and left > max_size
        if not (old or big) or entry.path in kept:
            continue
        if entry.is_protected:
            protected.append(entry)
            continue
        shares.subtract(entry.inodes.keys())
        freed = sum(size for inode, size in entry.inodes.items() if not shares[inode])
        left -= freed
        removals.append(Removal(entry, "unused for too long" if old else "over --max-size", freed))
    return CollectionPlan(tuple(removals), tuple(protected), total)


def take_inventory(store: LocalStore, *, is_dry: bool = False) -> tuple[list[Entry], float]:
    """Every artifact and everything set aside, with the store's own time.

    ``is_dry`` says that nothing will be removed: this machine's time does then where the store
    cannot be written.

    Raises
    ------
    StoreError
        The store cannot be read or written.
    """
    with storing(store.root):
        now = _time(store, is_dry)
        aside = store.root / SET_ASIDE
        broken = [path for path in aside.glob("*") if path.is_dir()] if aside.is_dir() else []
        ours = [path for path in store.directories() if is_ours(path)]
        files = {path: _files(path) for path in [*ours, *broken]}
        guards = {path: (is_pinned(path), holders(path, now)) for path in ours}
    inside = Counter(inode for found in files.values() for inode, _, _ in found)
    # A file that lies elsewhere too, in a model cache say, frees nothing when it goes here.
    inodes = {
        path: {inode: size for inode, size, links in found if links <= inside[inode]}
        for path, found in files.items()
    }
    return [
        *(Entry(path, last_used(path), inodes[path], *guards[path]) for path in ours),
        *(Entry(path, last_used(path), inodes[path], is_broken=True) for path in broken),
    ], now


def _time(store: LocalStore, is_dry: bool) -> float:
    try:
        return store_time(store.root)
    except OSError:
        if not (is_dry and store.root.is_dir()):
            raise
        return time.time()


def remove(store: LocalStore, removals: Sequence[Removal]) -> list[Removal]:
    """Carry a plan out; gives what really went. What came into use meanwhile stays.

    Raises
    ------
    StoreError
        Something could not be removed; all else was.
    """
    removed, failed = [], None
    for removal in removals:
        try:
            if _remove(store, removal.entry.path):
                removed.append(removal)
        except StoreError as error:
            failed = error
    if failed:
        raise failed
    return removed


def find_litter(store: LocalStore) -> dict[Path, int]:
    """Temporaries and trash of processes that are gone, each with its bytes on disk."""
    found = store.abandoned()
    for place, pattern in ((store.root / TRASH, "*"), (store.root, f"{CLOCK}*")):
        with suppress(OSError):
            found += [path for path in place.glob(pattern) if is_abandoned(path)]
    for place in (store.root / LOCKS, store.root / FAILED, *store.directories()):
        found += find_stale_temporaries(place)
    return {path: size_on_disk(path) for path in found}


def collect_litter(store: LocalStore) -> list[Path]:
    """Remove temporaries, trash and leases of processes that are gone."""
    gone = list(find_litter(store))
    for path in gone:
        discard(path)
    with suppress(OSError):
        collect_leases(store.root, store_time(store.root))
    collect_failures(store.root)
    return gone


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    with suppress(OSError):
        own = path.lstat().st_blocks * 512
        return own + sum(size for _, size, _ in _files(path)) if path.is_dir() else own
    return 0


def discard(path: Path) -> None:
    """Remove a file or a directory as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _files(directory: Path) -> list[tuple[Inode, int, int]]:
    """Inode, bytes on disk and number of links of every file below."""
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                stat = os.lstat(Path(folder) / name)
                found.append(((stat.st_dev, stat.st_ino), stat.st_blocks * 512, stat.st_nlink))
    return found


def _remove(store: LocalStore, path: Path) -> bool:
    trash = store.root / TRASH
    target = trash / f"{path.name}-{Owner.current().token}-{secrets.token_hex(4)}"
    intent = target.with_name(target.name + INTENT)
    with storing(trash):
        trash.mkdir(exist_ok=True)
        intent.touch()
    try:
        if not _move_away(store, path, target):
            return False
    finally:
        with suppress(OSError):
            intent.unlink()
    shutil.rmtree(target, ignore_errors=True)
    return True


def _move_away(store: LocalStore, path: Path, target: Path) -> bool:
    """Move an artifact into the trash unless somebody wants it; see :func:`.leases.hold`."""
    with storing(path):
        if path.parent == store.root and _is_wanted(store, path):
            return False
        try:
            if not rename_without_replacing(path, target):
                return False
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise StoreError(
                f"{path} lies in a layer of a container image, where removing it frees nothing",
                hint="build the image without it, or pin it so that gc leaves it alone",
            ) from error
    wanted = True  # as long as the question cannot be answered
    try:
        with storing(path):
            wanted = path.parent == store.root and _is_wanted(store, path)
    finally:
        if wanted:
            _put_back(target, path)
    return not wanted


def _is_wanted(store: LocalStore, path: Path) -> bool:
    return is_pinned(path) or bool(holders(path, store_time(store.root)))


def _put_back(target: Path, path: Path) -> None:
    """If somebody has built it again meanwhile, theirs is as good: the key is the same."""
    with storing(path):
        if not rename_without_replacing(target, path):
            shutil.rmtree(target, ignore_errors=True)
