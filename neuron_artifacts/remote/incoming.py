"""Files on their way into a store, which survive the death of whoever fetches them.

``.incoming/<digest>.<owner>`` is a file that a living process appends to; ``.incoming/<digest>``
one that its fetcher gave up. Either is taken over by renaming it, which only one can do: no lock
is needed, and no two processes ever write one file.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from neuron_artifacts._files import CHUNK, DigestCache, sync, write_all
from neuron_artifacts.errors import CorruptError, RemoteError
from neuron_artifacts.remote.moving import persistently
from neuron_artifacts.remote.port import OnBytes
from neuron_artifacts.store.owner import Owner, is_abandoned
from neuron_artifacts.store.staging import READ_ONLY, storing

FOLDER = ".incoming"
KEEP_SECONDS = 7 * 24 * 3600

Read = Callable[[int], Iterator[bytes]]
"""Gives the bytes of a file from an offset on."""


class Incoming:
    """The files one pull brings in; a context that keeps what it has if it fails."""

    def __init__(self, store: Path, digests: DigestCache) -> None:
        self._folder = store / FOLDER
        self._digests = digests
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()
        self.fetched_bytes = self.resumed_bytes = 0

    def __enter__(self) -> Incoming:
        with storing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            collect_incoming(self._folder.parent)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for digest, path in self._files.items():
            with suppress(OSError):
                if kind is None:
                    path.unlink()
                else:
                    path.replace(self._folder / digest)
        with suppress(OSError):
            self._folder.rmdir()

    def fetch(self, sha256: str, size: int, read: Read, where: str, on_bytes: OnBytes) -> Path:
        """Bring one file in, going on from where somebody stopped.

        ``on_bytes`` is told every byte, those that were there as well.

        Raises
        ------
        CorruptError
            Other bytes arrived.
        RemoteError
            The store gave up.
        """
        with storing(self._folder):
            path = self._claim(sha256)
            arriving = _Arriving(path, size, where, on_bytes)
            had = arriving.recall()
            arriving.complete(read)
            if arriving.sha256 != sha256 and had:
                had = 0
                arriving.forget()  # what lay there may have been damaged: again from the start
                arriving.complete(read)
            if arriving.sha256 != sha256:
                path.unlink()
                raise CorruptError(
                    f"{where} sent other bytes for {sha256} than its digest says",
                    hint="delete that blob in the store, and push the artifact again",
                )
            path.chmod(READ_ONLY)
        with self._lock:
            self.resumed_bytes += had
            self.fetched_bytes += size - had
        self._digests.remember(path, sha256, settled=True)
        return path

    def _claim(self, sha256: str) -> Path:
        """A path of this process alone, with what a dead process left of the file."""
        mine = self._folder / f"{sha256}.{Owner.current().token}-{secrets.token_hex(4)}"
        self._files[sha256] = mine
        for left in self._folder.glob(f"{sha256}*"):
            if left.name == sha256 or is_abandoned(left):
                with suppress(FileNotFoundError):
                    left.replace(mine)
                    mine.chmod(0o644)
                    return mine
        mine.touch()
        return mine


def find_orphans(store: Path) -> list[Path]:
    """Files that nobody came back for, and those that are part of an artifact already."""
    found = []
    with suppress(OSError):
        for path in (store / FOLDER).iterdir():
            with suppress(OSError):
                if "." in path.name and not is_abandoned(path):
                    continue
                status = path.stat()
                if status.st_nlink > 1 or time.time() - status.st_mtime > KEEP_SECONDS:
                    found.append(path)
    return found


def collect_incoming(store: Path) -> None:
    """Remove what :func:`find_orphans` finds."""
    for path in find_orphans(store):
        with suppress(OSError):
            path.unlink()


class _Arriving:
    """One file being appended to, and the digest of what it holds."""

    def __init__(self, path: Path, size: int, where: str, on_bytes: OnBytes) -> None:
        self._path, self._size, self._where = path, size, where
        self._on_bytes = on_bytes
        self._have = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def forget(self) -> None:
        """Begin from nothing."""
        self._on_bytes(-self._have)
        self._have, self._digest = 0, hashlib.sha256()

    def recall(self) -> int:
        """Hash what lies there already; how much that is."""
        if self._path.stat().st_size <= self._size:
            with self._path.open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    self._take(chunk)
        return self._have

    def complete(self, read: Read) -> None:
        """Fetch the rest, as often as the connection breaks."""
        with self._path.open("r+b", buffering=0) as file:
            file.truncate(self._have)
            file.seek(self._have)
            if self._have < self._size:
                persistently(lambda: self._append(file, read), moved=lambda: self._have)
            sync(file, self._have)

    def _append(self, file: FileIO, read: Read) -> None:
        for chunk in read(self._have):
            if self._have + len(chunk) > self._size:
                raise CorruptError(f"{self._where} sends more than {self._size} bytes of a file")
            write_all(file, chunk)
            self._take(chunk)
        if self._have < self._size:
            raise RemoteError(
                f"{self._where} ended a file of {self._size} bytes after {self._have}", passing=True
            )

    def _take(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._have += len(chunk)
        self._on_bytes(len(chunk))
