"""Remote stores that keep named objects: shared folders and object stores.

Layout: ``cas/sha256/<digest>`` for every file, then ``artifacts/<key>.json``, put last and only if
absent. So a reader sees a whole artifact or none, and files are shared between artifacts. Whoever
signs later adds ``signatures/<key>/<digest>.json``. What pushes and collectors tell each other is
in :mod:`~neuron_artifacts.remote.collect`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from neuron_artifacts._files import is_sha256
from neuron_artifacts.errors import CorruptError, MissError, RemoteError
from neuron_artifacts.remote.manifest import MAX_BYTES, RemoteManifest
from neuron_artifacts.remote.moving import in_parallel, persistently, read_checked
from neuron_artifacts.remote.port import (
    MAX_SIGNATURE_BYTES,
    MOST_KEYS,
    MOST_SIGNATURES,
    Blob,
    OnBytes,
    Probe,
    take,
)

ARTIFACTS = "artifacts/"
BLOBS = "cas/sha256/"
SIGNATURES = "signatures/"


@dataclass(frozen=True)
class Listed:
    """An object of a listing; ``modified`` in seconds, by the store's clock."""

    name: str
    size: int
    modified: float


class Objects(Protocol):
    """Named objects, each there whole or not at all.

    Methods raise :class:`~neuron_artifacts.errors.RemoteError` for every trouble of the store.
    """

    @property
    def url(self) -> str: ...

    def head(self, name: str) -> int | None:
        """The object's size, or ``None``."""
        ...

    def get(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        """Its bytes from ``start`` on; MissError if it is not there."""
        ...

    def put(self, name: str, chunks: Iterator[bytes], size: int) -> None:
        """Write it, replacing what is there; what ``chunks`` raises leaves no object."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a small object unless one is there; whether it was written."""
        ...

    def list(self, folder: str) -> Iterator[Listed]:
        """Everything below a folder, whose name ends with a slash."""
        ...

    def delete(self, name: str) -> None:
        """Remove it if it is there."""
        ...


class CasStore:
    """A remote store over named objects."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    @property
    def url(self) -> str:
        return self.objects.url

    def sizes(self, digests: Sequence[str]) -> dict[str, int]:
        found = in_parallel(
            lambda digest: persistently(lambda: self.objects.head(_blob(digest))), digests
        )
        return {d: size for d, size in zip(digests, found, strict=True) if size is not None}

    def read(self, sha256: str, size: int, start: int = 0) -> Iterator[bytes]:
        return self.objects.get(_blob(sha256), size, start)

    def write(self, blob: Blob, on_bytes: OnBytes) -> None:
        chunks = read_checked(blob.path, blob.sha256, on_bytes)
        self.objects.put(_blob(blob.sha256), chunks, blob.size)
        found = self.objects.head(_blob(blob.sha256))
        if found != blob.size:
            raise RemoteError(
                f"{self.url} has {found} bytes of {blob.sha256} where {blob.size} were sent"
            )

    def read_manifest(self, key: str) -> bytes | None:
        name = _manifest(key)
        size = self.objects.head(name)
        if size is None:
            return None
        if size > MAX_BYTES:
            raise CorruptError(f"{self.url} has a manifest of {size} bytes for {key}")
        try:
            return self._take(name, size)
        except MissError:
            return None

    def _take(self, name: str, size: int) -> bytes:
        return take(self.objects.get(name, size), size, f"{self.url}: {name}")

    def publish(self, manifest: RemoteManifest) -> bool:
        key, data = manifest.artifact.key, manifest.dump()
        if self.objects.put_if_absent(_manifest(key), data):
            return True
        # An answer that got lost makes the next try find what this publisher put itself.
        return self.read_manifest(key) == data

    def signatures(self, key: str) -> list[bytes]:
        listed = list(islice(self.objects.list(f"{SIGNATURES}{key}/"), MOST_SIGNATURES))
        small = (each for each in listed if each.size <= MAX_SIGNATURE_BYTES)
        return [self._take(each.name, each.size) for each in small]

    def add_signature(self, key: str, envelope: bytes) -> None:
        digest = hashlib.sha256(envelope).hexdigest()
        self.objects.put_if_absent(f"{SIGNATURES}{key}/{digest}.json", envelope)

    def keys(self) -> list[str]:
        listing = list(islice(self.objects.list(ARTIFACTS), MOST_KEYS + 1))
        if len(listing) > MOST_KEYS:
            raise RemoteError(f"{self.url} lists objects without end")
        names = (listed.name.removeprefix(ARTIFACTS) for listed in listing)
        keys = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return sorted(key for key in keys if is_sha256(key))

    def probe(self) -> Probe:
        name = f"probe-{secrets.token_hex(8)}.json"
        first, second = b"the first one ", b"the second one"
        try:
            won = [self.objects.put_if_absent(name, data) for data in (first, second)]
            kept = b"".join(self.objects.get(name, len(first)))
            tail = b"".join(self.objects.get(name, len(first), 4))
        finally:
            self.objects.delete(name)
        if won != [True, False] or kept != first:
            said = "takes" if won[1] else "refuses"
            return Probe(False, f"it {said} a second object of the same name, and overwrites")
        if tail != first[4:]:
            return Probe(False, "it does not give the rest of an object when asked for it")
        return Probe(True)


def _blob(sha256: str) -> str:
    return f"{BLOBS}{sha256}"


def _manifest(key: str) -> str:
    return f"{ARTIFACTS}{key}.json"
