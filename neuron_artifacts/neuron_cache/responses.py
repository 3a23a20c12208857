"""What hubs have answered, kept on disk.

Files are kept by their git object id and listings by commit, both for ever: neither can change.
What a branch pointed to is kept with the time at which it was asked, for ``--offline``. Losing any
of it costs requests; whatever is damaged counts as absent. The folder is its owner's alone, since
answers about private repositories lie in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import read_regular, user_cache_dir

_KEPT_COMMITS = 8
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Item:
    """One file or folder of a repository; ``oid`` is git's object id, ``size`` is in bytes."""

    path: str
    oid: str
    size: int
    folder: bool


@dataclass(frozen=True)
class KeptFile:
    """A file of a branch, as it was at ``at`` (seconds since the epoch)."""

    data: bytes
    commit: str | None
    at: float


class Responses:
    """The answers of one endpoint about one repository."""

    def __init__(self, endpoint: str, repo_id: str, root: Path | None = None) -> None:
        self._root = (root or user_cache_dir()) / "hub"
        self._own = self._root / _digest(endpoint, repo_id)[:24]

    def commits(self, revision: str) -> list[tuple[str, float]]:
        """Commits a branch has pointed to, with when that was last seen, the latest first."""
        kept = _load(self._own / f"ref-{_digest(revision)[:16]}.json")
        pairs = kept if isinstance(kept, list) else []
        return [(str(p[0]), float(p[1])) for p in pairs if isinstance(p, list) and len(p) == 2]

    def keep_commit(self, revision: str, commit: str) -> None:
        older = [pair for pair in self.commits(revision) if pair[0] != commit]
        pairs = [(commit, time.time()), *older][:_KEPT_COMMITS]
        self._write(self._own / f"ref-{_digest(revision)[:16]}.json", json.dumps(pairs).encode())

    def listing(self, commit: str, folder: str, recursive: bool) -> tuple[Item, ...] | None:
        kept = _load(self._listing_path(commit, folder, recursive))
        try:
            return tuple(Item(*row) for row in kept) if isinstance(kept, list) else None
        except TypeError:
            return None

    def keep_listing(
        self, commit: str, folder: str, recursive: bool, items: Sequence[Item]
    ) -> None:
        rows = [(item.path, item.oid, item.size, item.folder) for item in items]
        self._write(self._listing_path(commit, folder, recursive), json.dumps(rows).encode())

    def blob(self, commit: str, item: Item) -> bytes | None:
        """A file's bytes, checked against its id where that is a git object id."""
        data = _read(self._blob_path(item.oid))
        if data is not None and git_object_id(data) == item.oid:
            return data
        data = _read(self._blob_path(_digest(commit, item.path)))
        return data if data is not None and len(data) == item.size else None

    def keep_blob(self, commit: str, item: Item, data: bytes) -> None:
        own_id = git_object_id(data) == item.oid
        self._write(self._blob_path(item.oid if own_id else _digest(commit, item.path)), data)

    def file(self, revision: str, name: str) -> KeptFile | None:
        kept = _load(self._own / f"file-{_digest(revision, name)[:16]}.json")
        try:
            return KeptFile(kept["text"].encode(), kept["commit"], float(kept["at"]))
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    def keep_file(self, revision: str, name: str, data: bytes, commit: str | None) -> None:
        body = {"text": data.decode(errors="replace"), "commit": commit, "at": time.time()}
        self._write(
            self._own / f"file-{_digest(revision, name)[:16]}.json", json.dumps(body).encode()
        )

    def _write(self, path: Path, data: bytes) -> None:
        """Whole or not at all, but not synced to disk: a reader tells damage from content."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            try:
                self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(data)
                temporary.replace(path)
            except OSError:
                temporary.unlink()

    def _listing_path(self, commit: str, folder: str, recursive: bool) -> Path:
        return self._own / f"list-{_digest(commit, folder, str(recursive))[:32]}.json"

    def _blob_path(self, oid: str) -> Path:
        safe = oid if oid.isalnum() else _digest(oid)
        return self._root / "blobs" / safe[:2] / safe[2:]


def git_object_id(data: bytes) -> str:
    """The id git gives a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path, _MOST_BYTES)
    except (OSError, ValueError):
        return None


def _load(path: Path) -> Any:
    try:
        return json.loads(read_regular(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
