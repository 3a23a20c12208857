"""The members of a tar archive that arrives as a stream, plain or compressed with gzip.

Nothing is written and nothing is kept but names: memory stays small whatever the archive claims,
and an archive that would unpack to absurd sizes is refused while it is read. The standard
library's reader keeps whole extension records in memory, whose size the archive chooses.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from neuron_artifacts.errors import CorruptError

MAX_MEMBERS = 100_000
MAX_NAMES_BYTES = 16 << 20
MAX_EXPANSION = 100
"""Unpacked bytes per packed byte, above :data:`FREE_BYTES`."""

FREE_BYTES = 256 << 20
"""What any archive may unpack to; tables of one value compress a thousandfold."""

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_RECORD = 64 << 10
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib.decompressobj: a gzip header, and the largest window


@dataclass(frozen=True)
class TarMember:
    """One entry: its name without a leading ``./``, its size in bytes, and its type flag."""

    name: str
    size: int
    kind: bytes

    @property
    def is_file(self) -> bool:
        return self.kind in tarfile.REGULAR_TYPES


def read_members(chunks: Iterable[bytes], packed: int) -> Iterator[TarMember]:
    """The entries of an archive of ``packed`` bytes, read to its end.

    Raises
    ------
    CorruptError
        It is damaged, ends early, or exceeds a limit of this module.
    """
    source = _Source(_inflate(iter(chunks)), max(FREE_BYTES, packed * MAX_EXPANSION))
    names, count, long_name = 0, 0, ""
    while (entry := _next_header(source)) is not None:
        if entry.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _read_text(source, entry.size)
            continue
        if entry.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            _refuse_resized(source, entry.size)
            continue
        name, long_name = (long_name or entry.name).removeprefix("./"), ""
        source.skip(_padded(entry.size))
        count, names = count + 1, names + len(name)
        if count > MAX_MEMBERS or names > MAX_NAMES_BYTES:
            raise CorruptError(f"its archive has more than {MAX_MEMBERS} members")
        yield TarMember(name, entry.size, entry.type)
    source.drain()


class _Source:
    """Unpacked bytes, counted."""

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self._pieces, self._limit = pieces, limit
        self._rest, self._total = b"", 0

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        for piece in self._take(size):
            parts.append(piece)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        if sum(map(len, self._take(size))) != size:
            raise CorruptError("its archive ends inside a member")

    def drain(self) -> None:
        for _ in self._take(self._limit + 1):
            pass

    def _take(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                self._total += len(self._rest)
                if self._total > self._limit:
                    raise CorruptError(f"its archive unpacks to more than {self._limit} bytes")
                if not self._rest:
                    return
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece


def _inflate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes as they are, or unpacked in pieces of a bounded size where they are gzip."""
    first = next(chunks, b"")
    if not first.startswith(_GZIP):
        yield from filter(None, (first, *()))
        yield from filter(None, chunks)
        return
    unpacker, data = zlib.decompressobj(_GZIP_WINDOW), first
    try:
        while True:
            piece = unpacker.decompress(data, _CHUNK)
            if piece:
                yield piece
            data = unpacker.unconsumed_tail
            if unpacker.eof:
                data = unpacker.unused_data or next(chunks, b"")
                if not data.strip(b"\0"):
                    return
                unpacker = zlib.decompressobj(_GZIP_WINDOW)
            elif not data and not piece:
                data = next(chunks, b"")
                if not data:
                    raise CorruptError("its archive ends early")
    except zlib.error as error:
        raise CorruptError(f"its archive is damaged: {error}") from None


def _next_header(source: _Source) -> tarfile.TarInfo | None:
    block = source.read(_BLOCK)
    if not block:
        raise CorruptError("its archive has no end")
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros ends a tar
        return None
    except (tarfile.HeaderError, ValueError) as error:
        raise CorruptError(f"its archive is damaged: {error}") from None
    if entry.size < 0:
        raise CorruptError("its archive has a member of negative size")
    return entry


def _read_text(source: _Source, size: int) -> str:
    if size > _MAX_RECORD:
        raise CorruptError(f"its archive has a name of {size} bytes")
    text = source.read(_padded(size))[:size]
    return text.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _refuse_resized(source: _Source, size: int) -> None:
    """A pax record may give the next member another size than its header; none here does."""
    if " size=" in _read_text(source, size):
        raise CorruptError("its archive has a member with two sizes")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
