"""``export`` and ``import``: one artifact as one tar file, for networks without a way out.

Plain files alone, ``artifact.json`` first, so that whoever reads knows what must follow. Nothing is
compressed: weights and compiled graphs hardly shrink, and what is not unpacked cannot explode. The
reader knows one kind of member and one of header, each of bounded size; ``tar xf`` reads them too.
"""

from __future__ import annotations

import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from neuron_artifacts._files import CHUNK, shorten, sync, sync_directory
from neuron_artifacts.artifact import (
    MANIFEST_NAME,
    SIDECARS,
    Manifest,
    parse_manifest,
    verify_artifact,
)
from neuron_artifacts.artifact.manifest import MAX_MANIFEST_BYTES
from neuron_artifacts.errors import CorruptError, IncompleteError, UsageError
from neuron_artifacts.events import Observer, ignore
from neuron_artifacts.remote.arrival import (
    Approve,
    approve_all,
    check_space,
    is_whole,
    publish_staged,
)
from neuron_artifacts.remote.moving import Meter, read_checked
from neuron_artifacts.store import LocalStore, Staging
from neuron_artifacts.store.owner import Owner, is_abandoned
from neuron_artifacts.store.staging import storing

_BLOCK = tarfile.BLOCKSIZE
_MOST_NAME_BYTES = 4096
_BESIDE = SIDECARS - {MANIFEST_NAME}


@dataclass(frozen=True)
class Bundle:
    """What an export wrote, or an import made visible; ``bytes`` are the artifact's own."""

    key: str
    path: Path
    bytes: int
    already_there: bool = False


def export_artifact(directory: Path, target: Path, *, observe: Observer = ignore) -> Bundle:
    """Write an artifact as a tar file, checked on the way; the file appears whole or not at all.

    The same artifact gives the same bytes. An older file of that name is replaced.

    Raises
    ------
    MissError, CorruptError, IncompatibleError
        The directory holds no whole artifact.
    StoreError, ResourceError
        The file cannot be written.
    UsageError
        ``target`` is a folder, or in none.
    """
    verdict = verify_artifact(directory)
    if target.is_dir():
        hint = f"name a file in it: {target / 'artifact.tar'}"
        raise UsageError(f"{target} is a folder", hint=hint)
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}")
    if verdict.status != "ok":
        raise verdict.error()
    listed = (directory / MANIFEST_NAME).read_bytes()
    manifest = parse_manifest(listed)
    meter = Meter("exporting", manifest.total_bytes, observe)
    with storing(target), _replacing(target) as file:
        _add(file, manifest, MANIFEST_NAME, iter((listed,)), len(listed))
        for name in sorted(_BESIDE):
            if (directory / name).is_file():
                data = (directory / name).read_bytes()
                _add(file, manifest, name, iter((data,)), len(data))
        for entry in manifest.files:
            chunks = read_checked(directory / entry.path, entry.sha256, meter.add)
            _add(file, manifest, entry.path, chunks, entry.size)
        file.write(bytes(2 * _BLOCK))
    return Bundle(manifest.key, target, manifest.total_bytes)


def import_artifact(
    source: Path,
    store: LocalStore,
    *,
    destination: Path | None = None,
    approve: Approve = approve_all,
    observe: Observer = ignore,
) -> Bundle:
    """Make the artifact in a tar file visible here, whole or not at all.

    Believes nothing: every member must be a plain file that the manifest at the front lists, once,
    with its size and digest. ``approve`` is asked before anything shows, with a directory that
    holds the manifest and its signatures. What lies broken at the destination is set aside.

    Raises
    ------
    CorruptError, IncompleteError, IncompatibleError
        The file is no export of an artifact, or a hostile or damaged one.
    UsageError
        It cannot be read.
    StoreError, ResourceError
        The store cannot be written.
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from None
    with file:
        reader = _Reader(file, source)
        listed, manifest = _read_manifest(reader)
        destination = destination or store.path(manifest.key)
        if is_whole(destination, manifest.key, store):
            approve(destination)
            return Bundle(manifest.key, destination, manifest.total_bytes, already_there=True)
        with store.stage(manifest.key, destination) as staging:
            check_space(staging, manifest.total_bytes)
            _lay(reader, staging, manifest, Meter("importing", manifest.total_bytes, observe))
            with storing(staging.path):
                (staging.path / MANIFEST_NAME).write_bytes(listed)
            approve(staging.path)
            publish_staged(staging, manifest, listed, store, destination)
    return Bundle(manifest.key, destination, manifest.total_bytes)


class _Counted:
    """Counts what is written to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += self._file.write(data)


def _add(file: _Counted, manifest: Manifest, name: str, chunks: Iterator[bytes], size: int) -> None:
    member = tarfile.TarInfo(f"{_folder(manifest)}{name}")
    member.size, member.mode = size, 0o644
    file.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
    for chunk in chunks:
        file.write(chunk)
    file.write(bytes(-size % _BLOCK))


def _folder(manifest: Manifest) -> str:
    """Where ``tar xf`` puts the files; short, so that most names fit into one header."""
    return f"{manifest.key[:16]}/"


def _read_manifest(reader: _Reader) -> tuple[bytes, Manifest]:
    member = reader.next()
    if member is None or member[0].rpartition("/")[2] != MANIFEST_NAME:
        raise CorruptError(
            f"{reader.source} does not begin with {MANIFEST_NAME}, so it is no export of an "
            "artifact",
            hint="neuron-artifacts export writes one; it is not compressed",
        )
    name, size = member
    if size > MAX_MANIFEST_BYTES:
        raise CorruptError(f"{reader.source} begins with a manifest of {size} bytes")
    data = b"".join(reader.chunks())
    manifest = parse_manifest(data)
    if name != f"{_folder(manifest)}{MANIFEST_NAME}":
        raise CorruptError(f"{reader.source} names its files for another key")
    return data, manifest


def _lay(reader: _Reader, staging: Staging, manifest: Manifest, meter: Meter) -> None:
    """Write every member into the staging directory, and check that nothing is missing or odd."""
    expected = {entry.path: entry for entry in manifest.files}
    beside = set(_BESIDE)
    while member := reader.next():
        name, size = member[0].removeprefix(_folder(manifest)), member[1]
        entry = expected.pop(name, None)
        allowed = entry.size if entry else MAX_MANIFEST_BYTES
        if not member[0].startswith(_folder(manifest)) or not (entry or name in beside):
            raise CorruptError(f"{reader.source} holds {shorten(member[0])}, unlisted or twice")
        if size > allowed or (entry and size != allowed):
            raise CorruptError(f"{reader.source} has {size} bytes of {name}, not {allowed}")
        with storing(staging.path), staging.reserve(name).open("xb") as file:
            for chunk in reader.chunks():
                file.write(chunk)
                meter.add(len(chunk) if entry else 0)
            file.flush()
            sync(file, size)
        beside.discard(name)
        if entry:
            staging.adopt(name, entry.role)
    if expected:
        raise IncompleteError(f"{reader.source} ends before {next(iter(expected))}")
    damaged = sorted({f.path for f in set(manifest.files) - set(staging.files)})
    if damaged:
        raise CorruptError(f"{reader.source} has other bytes of {damaged[0]} than it lists")


class _Reader:
    """The members of a tar file, in order, each a plain file."""

    def __init__(self, file: IO[bytes], source: Path) -> None:
        self._file, self.source = file, source
        self._size = self._left = 0

    def next(self) -> tuple[str, int] | None:
        """Name and size of the next member; ``None`` at the end."""
        member = self._header()
        name = None
        if member and member.type == tarfile.GNUTYPE_LONGNAME:
            if not 0 < member.size <= _MOST_NAME_BYTES:
                raise CorruptError(f"{self.source} holds a name of {member.size} bytes")
            name = b"".join(self.chunks()).rstrip(b"\0").decode("utf-8", "replace")
            member = self._header()
        if member is None:
            return None
        if member.type != tarfile.REGTYPE or member.size < 0:
            raise CorruptError(
                f"{self.source} holds {shorten(member.name)}, which is no plain file",
                hint="an export of an artifact holds nothing else; do not trust this one",
            )
        return name or member.name, member.size

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the member that :meth:`next` gave last."""
        while self._left:
            yield self._take(min(CHUNK, self._left))
        self._skip_padding()

    def _header(self) -> tarfile.TarInfo | None:
        block = self._read(_BLOCK)
        if not block.strip(b"\0"):
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise CorruptError(f"{self.source} is no tar file, or damaged: {error}") from None
        self._size = self._left = max(0, member.size)
        return member

    def _take(self, count: int) -> bytes:
        data = self._read(count)
        self._left -= len(data)
        return data

    def _skip_padding(self) -> None:
        self._read(-self._size % _BLOCK)

    def _read(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
        except OSError as error:
            raise UsageError(f"{self.source} cannot be read: {error.strerror}") from None
        if len(data) < count:
            raise IncompleteError(f"{self.source} ends early", hint="copy it again")
        return data


@contextmanager
def _replacing(target: Path) -> Iterator[_Counted]:
    """A file that takes the target's place when the block succeeds."""
    for left in target.parent.glob(f".{target.name}.*"):
        if Owner.parse(left.name) and is_abandoned(left):
            left.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.{Owner.current().token}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            counted = _Counted(file)
            yield counted
            file.flush()
            sync(file, counted.size)
        temporary.replace(target)
        sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
