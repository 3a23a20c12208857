"""What a remote store is: blobs by digest, and one small manifest an artifact, put last."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neuron_artifacts.errors import CorruptError
from neuron_artifacts.remote.manifest import RemoteManifest

OnBytes = Callable[[int], None]

MOST_SIGNATURES = 100
"""Envelopes that are read of one artifact; who may write to a store could put there any number."""

MAX_SIGNATURE_BYTES = 1 << 20

MOST_KEYS = 1_000_000
"""A listing that is longer does not end."""

_SECRETS = re.compile(
    r"(?P<host>\w+://)[^\s/@]+@"
    r"|(?P<url>\w+://[^\s?\"']+)\?[^\s\"']+"
    r"|(?P<word>(?i:bearer|basic)\s+)\S+"
    r"|hf_\w+"
)


@dataclass(frozen=True)
class Blob:
    """Bytes on this machine that should lie in a remote store."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Probe:
    """What was found out about a store.

    ``conditional`` says whether of several who publish one key exactly one wins; ``problem`` is
    why not.
    """

    conditional: bool
    problem: str | None = None


class RemoteStore(Protocol):
    """A place that many machines share. ``url`` is for people and holds no secret.

    Every method may be called from several threads and raises
    :class:`~neuron_artifacts.errors.RemoteError`; one that is ``passing`` may be tried again.
    """

    @property
    def url(self) -> str: ...

    def sizes(self, digests: Sequence[str]) -> dict[str, int]:
        """How large those of these blobs are that are there."""
        ...

    def read(self, sha256: str, size: int, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from ``start`` on, unchecked.

        Raises
        ------
        MissError
            It is not there.
        """
        ...

    def write(self, blob: Blob, on_bytes: OnBytes) -> None:
        """Put a blob, whole and checked or not at all.

        Raises
        ------
        CorruptError
            The file holds other bytes than its digest says.
        """
        ...

    def read_manifest(self, key: str) -> bytes | None:
        """What was published under a key."""
        ...

    def publish(self, manifest: RemoteManifest) -> bool:
        """Make an artifact visible whose blobs are there; false if somebody else has."""
        ...

    def signatures(self, key: str) -> list[bytes]:
        """The envelopes that came after publishing, unchecked: :data:`MOST_SIGNATURES` at most."""
        ...

    def add_signature(self, key: str, envelope: bytes) -> None:
        """Put an envelope beside an artifact that is there.

        Its name is its digest, so nobody replaces another's, on whatever store.
        """
        ...

    def keys(self) -> list[str]:
        """Every key that was published."""
        ...

    def probe(self) -> Probe:
        """Try what the protocol relies on, and leave nothing behind."""
        ...


def take(chunks: Iterable[bytes], most: int, what: str) -> bytes:
    """A small object's bytes.

    Raises
    ------
    CorruptError
        There are more than were announced: a store may send without end.
    """
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > most:
            raise CorruptError(f"{what} has more than the {most} bytes that were announced")
    return bytes(data)


def redact(text: str) -> str:
    """The text without what could let somebody in: queries, users and tokens."""
    return _SECRETS.sub(_mask, text)


def _mask(match: re.Match[str]) -> str:
    kept = match["host"] or match["url"] or match["word"] or ""
    return f"{kept}***" if not match["url"] else f"{kept}?***"


def unique(blobs: Iterable[Blob]) -> list[Blob]:
    """Each digest once."""
    return list({blob.sha256: blob for blob in blobs}.values())
