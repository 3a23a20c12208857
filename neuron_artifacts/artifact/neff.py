"""NEFF files: the header of 1024 bytes, and the archive after it, read without the Neuron runtime.

Layout: ``neuron-runtime/explore/work-with-neff-files.rst`` of aws-neuron-sdk; the meaning of
``pkg_version`` and of the fields' order also in ``KLR/NEFF`` of leanprover/KLR. There is no magic
number. Version 1 is hashed with SHA-256; version 2 with MD5 in the first 16 of 32 bytes, the rest
being the digit 0. The hash tells damage from health, and nothing about who wrote the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neuron_artifacts._files import CHUNK, stat_regular
from neuron_artifacts.artifact.tar_stream import read_members
from neuron_artifacts.errors import CorruptError

HEADER_BYTES = 1024
MAX_MAJOR = 2
"""The newest major version that any runtime accepts so far; another ends in status 10."""

REQUIRED_MEMBERS = ("kelf-a.json", "neff.json")

_HEADER = struct.Struct("<QQQQQ128sI32s16s256sI64sQI468x")
_CORE_FOLDER = re.compile(r"(sg\d+)/")
_MARK = struct.pack("<QQ", 0, HEADER_BYTES)[1:]  # all but the first byte, which is the version
_GZIP, _TAR, _TAR_MAGIC_AT = b"\x1f\x8b\x08", b"ustar", 257
_PEEK = HEADER_BYTES + _TAR_MAGIC_AT + len(_TAR)


@dataclass(frozen=True)
class NeffHeader:
    """What the header says. ``lnc`` is ``None`` in files older than logical cores.

    ``data_size`` is the payload's in bytes. ``feature_bits`` may have bits that are not known
    here, and they mean nothing to a reader.
    """

    package_version: int
    data_size: int
    major: int
    minor: int
    build: str
    digest: str
    uuid: str
    name: str
    cores: int
    feature_bits: int
    lnc: int | None

    @property
    def file_size(self) -> int:
        return HEADER_BYTES + self.data_size

    @property
    def version(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True)
class Neff:
    """One NEFF. ``members`` are the archive's, and empty where it was not read."""

    header: NeffHeader
    members: tuple[str, ...] = ()

    @property
    def core_programs(self) -> int:
        """Programs in it: one for each physical core of the logical core it is for."""
        folders = {match[1] for name in self.members if (match := _CORE_FOLDER.match(name))}
        return len(folders)


def read_neff(path: Path, *, full: bool = False) -> Neff:
    """Read a file; with ``full`` also its hash and its archive.

    Raises
    ------
    CorruptError
        It is no NEFF, cut short, too long, or damaged.
    """
    try:
        stat_regular(path)  # opening a pipe would wait for whoever writes into it
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return read_neff_at(file, 0, size, full=full, exact=True)
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}") from error


def read_neff_at(
    file: BinaryIO, start: int, limit: int, *, full: bool = False, exact: bool = False
) -> Neff:
    """Read the NEFF that begins at ``start`` and ends within ``limit`` bytes, ``exact``-ly.

    Raises
    ------
    CorruptError
        As :func:`read_neff`.
    """
    file.seek(start)
    header = parse_header(file.read(min(HEADER_BYTES, limit)))
    if header.file_size > limit or (exact and header.file_size != limit):
        word = "cut short" if header.file_size > limit else "too long"
        raise CorruptError(f"is {word}: {limit} bytes where its header promises {header.file_size}")
    if not full:
        return Neff(header)
    _check_hash(file, start, header)
    chunks = _chunks(file, start + HEADER_BYTES, header.data_size)
    names = tuple(m.name for m in read_members(chunks, header.data_size) if m.is_file)
    absent = [name for name in REQUIRED_MEMBERS if name not in names]
    if absent:
        raise CorruptError(f"is a NEFF without {absent[0]}")
    return Neff(header, names)


def parse_header(data: bytes) -> NeffHeader:
    """The header, from the first 1024 bytes.

    Raises
    ------
    CorruptError
        They are no NEFF header.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptError(f"is {len(data)} bytes long, too short for a NEFF")
    fields = _HEADER.unpack(data[:HEADER_BYTES])
    package, header_size, data_size, major, minor, build, _, digest, uuid, name = fields[:10]
    if package not in (1, 2) or header_size != HEADER_BYTES:
        raise CorruptError("is no NEFF, or one of a kind that is not known here")
    size = 32 if package == 1 else 16
    return NeffHeader(
        package, data_size, major, minor, _text(build), digest[:size].hex(), uuid.hex(),
        _text(name), cores=fields[10], feature_bits=fields[12], lnc=fields[13] or None,
    )  # fmt: skip


def find_neffs(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, NeffHeader]]:
    """Offsets of the NEFFs in a region of a file, found by what a header looks like.

    A place counts when the whole NEFF fits into the region and an archive begins where its
    payload should: two integers alone also occur in tensors. Time is linear in ``size``, memory
    one chunk, whatever the bytes are.
    """
    at, end = start, start + size
    while end - at > HEADER_BYTES:
        file.seek(at)
        data = file.read(min(CHUNK, end - at))
        is_last = len(data) == end - at or len(data) <= _PEEK
        # A header too near the end of this chunk is whole in the next one.
        step = len(data) if is_last else len(data) - _PEEK
        mark = 0
        while 0 < (mark := data.find(_MARK, mark + 1)) <= step:
            header = _plausible_header(data, mark - 1, end - at - mark + 1)
            if header is not None:
                yield at + mark - 1, header
                mark += header.file_size - 1
                step = max(step, mark)
        if not data:
            return
        at += step


def _plausible_header(data: bytes, place: int, limit: int) -> NeffHeader | None:
    payload = place + HEADER_BYTES
    tar = payload + _TAR_MAGIC_AT
    begins = data[payload : payload + 3] == _GZIP or data[tar : tar + len(_TAR)] == _TAR
    if not begins:
        return None
    try:
        header = parse_header(data[place:payload])
    except CorruptError:
        return None
    return header if header.data_size and header.file_size <= limit else None


def _check_hash(file: BinaryIO, start: int, header: NeffHeader) -> None:
    digest = hashlib.sha256() if header.package_version == 1 else hashlib.md5(usedforsecurity=False)
    for chunk in _chunks(file, start + HEADER_BYTES, header.data_size):
        digest.update(chunk)
    if digest.hexdigest() != header.digest:
        raise CorruptError(f"is a damaged NEFF: its {digest.name} is not the one in its header")


def _chunks(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while size > 0:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            raise CorruptError("was cut short while it was read")
        size -= len(chunk)
        yield chunk


def _text(field: bytes) -> str:
    text = field.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
