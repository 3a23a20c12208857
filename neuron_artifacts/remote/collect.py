"""Collect what killed pushes left in a remote store: blobs that no visible manifest names.

A push may rely on an old blob that nobody names yet, so the two must see each other. A push puts
``pushing/<token>.json``, the digests it will name, before it looks what is there, and takes it away
after publishing. A collector puts ``collecting/<token>.json``, the digests it would remove, before
it looks for pushes and, once more, for manifests. So a push that began before is seen and spared;
one that begins later sees the collector, and waits for it before it looks.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from neuron_artifacts._files import is_sha256, load_json_object
from neuron_artifacts.errors import CorruptError, MissError, RefusedError, RemoteError
from neuron_artifacts.events import Note, Observer, ignore
from neuron_artifacts.remote.manifest import MAX_BYTES
from neuron_artifacts.remote.moving import in_parallel, persistently
from neuron_artifacts.remote.objects import BLOBS, SIGNATURES, CasStore, Listed, Objects
from neuron_artifacts.remote.port import RemoteStore, take
from neuron_artifacts.remote.pull import read_remote

PUSHING, COLLECTING = "pushing/", "collecting/"

PUSH_SECONDS = 7 * 24 * 3600.0
"""A push that announced itself longer ago counts as dead."""

REMOVING_SECONDS = 300.0
"""A collector removes nothing later than this after it announced what."""

STALE_SECONDS = 3 * REMOVING_SECONDS
"""Nobody waits for a collector that announced itself longer ago: it died."""

_LONGEST_WAIT = f"{STALE_SECONDS / 60:.0f} minutes at most, if it was killed"
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Collected:
    """``orphans`` nobody names and are old enough; ``removed`` of them are gone now.

    ``spared`` a push is about to name. ``ran_out`` tells that time did, and another run finds more.
    """

    orphans: tuple[Listed, ...]
    total_bytes: int
    removed: int = 0
    spared: int = 0
    ran_out: bool = False

    @property
    def orphan_bytes(self) -> int:
        return sum(orphan.size for orphan in self.orphans)


def plan_collection(
    blobs: Sequence[Listed], named: Collection[str], *, now: float, grace: float
) -> list[Listed]:
    """Blobs that nothing names and that are older than ``grace`` seconds, oldest first.

    A signature is named by the key of an artifact that is there.
    """
    orphans = [b for b in blobs if _name(b) not in named and now - b.modified > grace]
    return sorted(orphans, key=lambda blob: (blob.modified, blob.name))


def collect_remote(
    remote: RemoteStore,
    *,
    grace: float = PUSH_SECONDS,
    dry_run: bool = False,
    announce: Callable[[Sequence[Listed]], object] = lambda _: None,
) -> Collected:
    """Remove orphans older than ``grace`` seconds; ``announce`` is told which before.

    Raises
    ------
    RefusedError
        The store has no orphans that anybody but itself could remove.
    CorruptError, IncompatibleError
        A manifest cannot be read, so that nobody knows what it names; nothing was removed.
    RemoteError
    """
    if not isinstance(remote, CasStore):
        raise RefusedError(
            f"{remote.url} shows no blobs but those of artifacts: there is nothing to collect",
            hint="registries and hubs remove by their own rules what nothing names any more",
        )
    with _Announcement(remote.objects, COLLECTING) as announcement:
        announcement.put(())
        now = announcement.time()
        listed = [b for folder in (BLOBS, SIGNATURES) for b in _list(remote.objects, folder)]
        blobs = [b for b in listed if is_sha256(_name(b))]
        orphans = plan_collection(blobs, _named(remote), now=now, grace=grace)
        announce(orphans)
        found = Collected(tuple(orphans), sum(blob.size for blob in blobs))
        if not orphans or dry_run:
            return found
        announcement.put(sorted({_name(orphan) for orphan in orphans}))
        until = time.monotonic() + REMOVING_SECONDS
        wanted = _pushing(remote.objects, now) | _named(remote)
        doomed = [orphan for orphan in orphans if _name(orphan) not in wanted]
        gone = in_parallel(lambda orphan: _remove(remote.objects, orphan, until), doomed)
    return replace(
        found, removed=sum(gone), spared=len(orphans) - len(doomed), ran_out=not all(gone)
    )


@contextmanager
def announced(
    remote: RemoteStore, digests: Sequence[str], observe: Observer = ignore
) -> Iterator[None]:
    """Keep collectors from blobs that a push is about to name, until the block ends."""
    if not isinstance(remote, CasStore):
        yield
        return
    with _Announcement(remote.objects, PUSHING) as announcement:
        announcement.put(digests)
        waiting = False
        while _is_collecting(announcement, set(digests)):
            if not waiting:
                observe(Note(f"waiting for a collector of {remote.url} ({_LONGEST_WAIT})"))
            waiting = True
            time.sleep(_POLL_SECONDS)
        yield


class _Announcement:
    """One object of this process, gone when the block ends."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self.objects, self._folder = objects, folder
        self._name = f"{folder}{secrets.token_hex(8)}.json"

    def __enter__(self) -> _Announcement:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(RemoteError):  # who may write may not always delete; a collector may
            self.objects.delete(self._name)

    def put(self, digests: Sequence[str]) -> None:
        data = json.dumps({"digests": list(digests)}).encode()
        persistently(lambda: self.objects.put(self._name, iter((data,)), len(data)))

    def time(self) -> float:
        """When it was put, by the store's clock."""
        for listed in _list(self.objects, self._folder):
            if listed.name == self._name:
                return listed.modified
        raise RemoteError(f"{self.objects.url} does not list what was just put", passing=True)


def _is_collecting(announcement: _Announcement, digests: Set[str]) -> bool:
    """Whether a collector that may live would remove one of these."""
    objects = announcement.objects
    collectors = _list(objects, COLLECTING)
    now = time.time() if not collectors else announcement.time()
    return any(
        now - collector.modified < STALE_SECONDS and digests & _read(objects, collector)
        for collector in collectors
    )


def _pushing(objects: Objects, now: float) -> set[str]:
    """What pushes are about to name; announcements of dead ones go."""
    digests: set[str] = set()
    for push in _list(objects, PUSHING):
        if now - push.modified > PUSH_SECONDS:
            persistently(lambda push=push: objects.delete(push.name))  # type: ignore[misc]
        else:
            digests |= _read(objects, push)
    return digests


def _read(objects: Objects, announcement: Listed) -> set[str]:
    """The digests it holds; none of one that is over by now."""
    if announcement.size > MAX_BYTES:
        raise CorruptError(f"{objects.url} holds {announcement.name}, which is too large")

    def read() -> bytes:
        chunks = objects.get(announcement.name, announcement.size)
        # A collector puts its own again once it knows what to remove: it may have grown since.
        return take(chunks, MAX_BYTES, f"{objects.url}: {announcement.name}")

    try:
        return {str(digest) for digest in load_json_object(persistently(read))["digests"]}
    except MissError:
        return set()
    except (ValueError, KeyError, TypeError):
        raise CorruptError(
            f"{objects.url} holds {announcement.name}, which is damaged",
            hint="delete it if no push runs",
        ) from None


def _named(remote: CasStore) -> set[str]:
    """Every digest that a visible manifest names, and the manifests' own keys."""
    keys = persistently(remote.keys)
    manifests = in_parallel(lambda key: read_remote(remote, key), keys)
    files = {file.sha256 for manifest in manifests for file in manifest.artifact.files}
    return files.union(keys, (s.sha256 for manifest in manifests for s in manifest.sidecars))


def _list(objects: Objects, folder: str) -> list[Listed]:
    return persistently(lambda: list(objects.list(folder)))


def _remove(objects: Objects, orphan: Listed, until: float) -> bool:
    if time.monotonic() > until:
        return False
    persistently(lambda: objects.delete(orphan.name))
    return True


def _name(blob: Listed) -> str:
    """By what it is named: a blob by its digest, a signature by the key of its artifact."""
    return blob.name.removeprefix(BLOBS).removeprefix(SIGNATURES).partition("/")[0]
