"""``model.pt``: a TorchScript archive, read as the zip file it is and never unpickled.

``torch.jit.save`` writes a zip whose members are stored, except source code, which is deflated;
all lie in one folder (``caffe2/serialize/inline_container.cc`` of PyTorch). The class that holds a
compiled graph keeps its NEFF as bytes in there, under no name that is documented, so NEFFs are
looked for in every stored member.

The file is read, not mapped: whoever shortens a mapped file kills the process that looks at it.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neuron_artifacts._files import CHUNK
from neuron_artifacts.artifact.neff import Neff, find_neffs, read_neff_at
from neuron_artifacts.errors import CorruptError

REQUIRED = ("data.pkl", "constants.pkl", "version")
"""Members without which ``torch.jit.load`` takes the file for something else."""

MAX_DIRECTORY_BYTES = 8 << 20
MAX_INFLATED_BYTES = 256 << 20
"""Deflated members are source code; together they may not unpack to more."""

MAX_NEFFS = 10_000

_MAX_TAIL = 128 << 10  # the end record and its comment, which are read without a size

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SOUND_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class EmbeddedNeff:
    """A NEFF in a member of the archive; ``offset`` is its place in the file, in bytes."""

    member: str
    offset: int
    neff: Neff


@dataclass(frozen=True)
class TorchScript:
    """A sound archive: how many members it has, and the NEFFs in them."""

    members: int
    neffs: tuple[EmbeddedNeff, ...]


def read_torchscript(path: Path, *, full: bool = False) -> TorchScript:
    """Check a ``model.pt`` and find its NEFFs; with ``full`` every checksum and every NEFF too.

    Raises
    ------
    CorruptError
        It is cut short, damaged, no TorchScript archive, or built to harm who reads it.
    """
    try:
        with path.open("rb") as file, _open_zip(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, os.fstat(file.fileno()).st_size)
            if full:
                for entry in entries:
                    _check_member(archive, entry)
            return TorchScript(len(entries), tuple(_find_all(file, entries, full)))
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror or error}") from error


class _Bounded:
    """A file that refuses the one read whose size an archive could choose at will."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY_BYTES + 1) if size >= 0 else _MAX_TAIL)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise CorruptError("has an absurdly large table of contents")
        return data


def _open_zip(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(_Bounded(file))
    except _ZIP_ERRORS as error:
        raise CorruptError(f"is no zip archive, or cut short ({error})") from None


_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError,
    OverflowError,
)  # fmt: skip
"""What the standard library raises for zip files that are not sound, encrypted, or too new."""


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Nothing encrypted, nothing twice, nothing that overlaps, nothing that explodes."""
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise CorruptError("has two members of one name")
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED:
            raise CorruptError(f"has an encrypted member, {entry.filename!r}")
        if entry.compress_type not in _SOUND_METHODS:
            raise CorruptError(f"has {entry.filename!r} compressed by a method that is not known")
    _check_regions(entries, size)
    deflated = [entry for entry in entries if entry.compress_type == zipfile.ZIP_DEFLATED]
    if sum(entry.file_size for entry in deflated) > MAX_INFLATED_BYTES:
        raise CorruptError(f"would unpack to more than {MAX_INFLATED_BYTES} bytes")
    root = names[0].partition("/")[0] if names else ""
    for name in REQUIRED:
        if f"{root}/{name}" not in names:
            raise CorruptError(f"has no {name}, so it is no TorchScript archive")


def _check_regions(entries: list[zipfile.ZipInfo], size: int) -> None:
    end, last = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise CorruptError(f"has members that overlap: {last!r} and {entry.filename!r}")
        end, last = entry.header_offset + _LOCAL_HEADER.size + entry.compress_size, entry.filename
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise CorruptError(f"has {entry.filename!r} with two sizes")
    if end > size:
        raise CorruptError(f"is cut short: {size} bytes where {last!r} alone needs {end}")


def _check_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read a member to its end: the library compares its checksum there."""
    try:
        left = entry.file_size
        with archive.open(entry) as member:
            while chunk := member.read(CHUNK):
                left -= len(chunk)
    except _ZIP_ERRORS as error:
        raise CorruptError(f"has a damaged member, {entry.filename!r} ({error})") from None
    if left:
        raise CorruptError(f"has {entry.filename!r} shorter than its size")


def _find_all(file: BinaryIO, entries: list[zipfile.ZipInfo], full: bool) -> Iterator[EmbeddedNeff]:
    count = 0
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            continue
        start = _data_offset(file, entry)
        for offset, header in find_neffs(file, start, entry.file_size):
            count += 1
            if count > MAX_NEFFS:
                raise CorruptError(f"has more than {MAX_NEFFS} NEFFs")
            neff = _read_embedded(file, entry, offset, header.file_size) if full else Neff(header)
            yield EmbeddedNeff(entry.filename, offset, neff)


def _read_embedded(file: BinaryIO, entry: zipfile.ZipInfo, offset: int, size: int) -> Neff:
    try:
        return read_neff_at(file, offset, size, full=True)
    except CorruptError as error:
        raise CorruptError(f"has a NEFF in {entry.filename!r} that {error.message}") from None


def _data_offset(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """The local header has padding of its own, so that tensors lie aligned."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise CorruptError(f"has no member where {entry.filename!r} should begin")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    return entry.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
