"""Publishing: everything is laid into a temporary directory, checked, and renamed into place.

The one place where a file enters an artifact (:meth:`Staging.place`) and the one where an
artifact becomes visible (:meth:`Staging.publish`). A reader sees a whole artifact or none: the
manifest is written last, all is synced, and the rename never replaces anything.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from neuron_artifacts._files import CHUNK, DigestCache, advise, sync, sync_directory
from neuron_artifacts.artifact import MANIFEST_NAME, FileEntry, Manifest
from neuron_artifacts.artifact.manifest import Role
from neuron_artifacts.errors import CorruptError, ResourceError, StoreError
from neuron_artifacts.store.owner import Owner

READ_ONLY = 0o444
_FICLONE = 0x40049409  # linux/fs.h
_RENAME_NOREPLACE = 1  # linux/fs.h
_AT_FDCWD = -100

How = Literal["reflink", "hardlink", "copy"]


class Staging:
    """A private directory that becomes an artifact, or vanishes.

    Parameters
    ----------
    parent:
        Where temporary directories live; on the file system of the destination.
    label:
        Start of the directory's name, for people who look.
    digests:
        Remembers the digest of each file placed, so that serving need not read it again.
    """

    def __init__(self, parent: Path, label: str, digests: DigestCache) -> None:
        self._digests = digests
        self._files: dict[str, FileEntry] = {}
        self._is_complete = False
        with storing(parent):
            parent.mkdir(parents=True, exist_ok=True)
            self.path = parent / f"{label}-{Owner.current().token}-{secrets.token_hex(4)}"
            self.path.mkdir()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """What was laid in so far, by path."""
        return tuple(self._files[name] for name in sorted(self._files))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def write(self, name: str, data: bytes, role: Role) -> None:
        """Add a small file."""
        target = self._target(name)
        with storing(target):
            target.write_bytes(data)
        self._seal(name, target, hashlib.sha256(data).hexdigest(), role, size=len(data))

    def reserve(self, name: str) -> Path:
        """A path that somebody else, a compiler, writes; :meth:`adopt` it afterwards."""
        return self._target(name)

    def adopt(self, name: str, role: Role) -> None:
        """Take in the file written at a reserved path."""
        target = self.path / name
        with storing(target):
            size, digest = 0, hashlib.sha256()
            with target.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        self._seal(name, target, digest.hexdigest(), role, size=size)

    def adopt_all(self, role: Callable[[str], Role]) -> None:
        """Take in every file that somebody else has written below :attr:`path`.

        Raises
        ------
        StoreError
            Something there is neither a file nor a folder.
        """
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if name in self._files or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink() or not path.is_file():
                raise StoreError(f"{name} is no plain file, and an artifact holds nothing else")
            self.adopt(name, role(name))

    def place(
        self,
        source: Path,
        name: str,
        role: Role,
        *,
        sha256: str,
        may_hardlink: bool,
        on_bytes: Callable[[int], None] | None = None,
    ) -> How:
        """Add an existing file: a reflink, else a hard link where allowed, else a copy.

        ``may_hardlink`` says that nobody rewrites the source in place. The bytes are checked
        against ``sha256`` in each case (a copy while it is made).

        Raises
        ------
        CorruptError
            The source holds other bytes.
        """
        target = self._target(name)
        with storing(target):
            size = source.stat().st_size
            if _reflink(source, target):
                how: How = "reflink"
            elif may_hardlink and _hardlink(source, target):
                how = "hardlink"
            else:
                how = "copy"
            if how == "copy":
                found = _copy(source, target, on_bytes)
            else:
                found = self._digests.digest(source, on_bytes)
        if found != sha256:
            raise CorruptError(
                f"{source} has other bytes than its digest says",
                hint="it changed or is damaged: fetch it again, then run the command again",
            )
        self._seal(name, target, sha256, role, size=size, keep_mode=how == "hardlink")
        return how

    def complete(self, manifest: Manifest, *, sidecars: Mapping[str, bytes] | None = None) -> None:
        """Write what comes last and sync it all, so that nothing but a rename is left to do."""
        with storing(self.path):
            for name, content in (sidecars or {}).items():
                self._write_synced(self.path / name, content)
            self._write_synced(self.path / MANIFEST_NAME, manifest.dump())
            for folder in sorted({self.path, *(p for p in self.path.rglob("*") if p.is_dir())}):
                sync_directory(folder)
        self._is_complete = True

    def publish(
        self, manifest: Manifest, destination: Path, *, sidecars: Mapping[str, bytes] | None = None
    ) -> bool:
        """Make the directory visible at ``destination``; false if something is there already.

        An empty directory at ``destination`` is replaced. ``sidecars`` are files about the
        artifact that its manifest does not list.
        """
        with storing(destination):
            if not self._is_complete:
                self.complete(manifest, sidecars=sidecars)
            destination.parent.mkdir(parents=True, exist_ok=True)
            _remove_if_empty(destination)
            if not rename_without_replacing(self.path, destination):
                return False
            sync_directory(destination.parent)
        return True

    def _target(self, name: str) -> Path:
        target = self.path / name
        with storing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _seal(
        self,
        name: str,
        target: Path,
        sha256: str,
        role: Role,
        *,
        size: int,
        keep_mode: bool = False,
    ) -> None:
        with storing(target):
            if not keep_mode:
                target.chmod(READ_ONLY)
                with target.open("rb") as file:
                    sync(file, size)
        self._files[name] = FileEntry(name, size, sha256, role)
        self._digests.remember(target, sha256, settled=True)

    @staticmethod
    def _write_synced(path: Path, data: bytes) -> None:
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            sync(file, len(data))
        path.chmod(READ_ONLY)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing below ``path`` into an error with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"no space left while writing {path}",
                hint="free space there, or choose another place with --store",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(
                f"{path} cannot be written: {error.strerror}",
                hint="choose a writable place with --store DIR or --output DIR",
            ) from error
        raise StoreError(
            f"{error.filename or path}: {error.strerror or error}", hint=advise(error)
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError while reading below ``path`` into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or path} cannot be read: {error.strerror or error}",
            hint=advise(error),
        ) from error


def rename_without_replacing(source: Path, destination: Path) -> bool:
    """Rename a directory unless the destination exists; whether it happened.

    ``renameat2(RENAME_NOREPLACE)`` where the kernel and file system have it; elsewhere a plain
    rename, which refuses to replace a directory that holds anything. Over NFS an answer can get
    lost, and the repeated call then fails although the directory has been moved.
    """
    moving = _inode(source)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        result = libc.renameat2(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination),
            ctypes.c_uint(_RENAME_NOREPLACE),
        )  # fmt: skip
    except AttributeError:
        result, code = -1, errno.ENOSYS
    else:
        code = ctypes.get_errno()
    if result == 0:
        return True
    if code in (errno.ENOSYS, errno.EINVAL):
        try:
            source.rename(destination)
        except OSError as error:
            code = error.errno or errno.EIO
        else:
            return True
    if moving is not None and _inode(source) is None and _inode(destination) == moving:
        return True
    if code in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
        return False
    raise OSError(code, os.strerror(code), str(destination))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def _reflink(source: Path, target: Path) -> bool:
    try:
        with source.open("rb") as reading, target.open("wb") as writing:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        return True
    except OSError as error:
        target.unlink(missing_ok=True)
        unsupported = (
            errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM,
            errno.EBADF, errno.ETXTBSY,
        )  # fmt: skip
        if error.errno in unsupported:
            return False
        raise


def _hardlink(source: Path, target: Path) -> bool:
    try:
        os.link(source, target, follow_symlinks=True)
        return True
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES):
            return False
        raise


def _copy(source: Path, target: Path, on_bytes: Callable[[int], None] | None) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(CHUNK):
            digest.update(chunk)
            writing.write(chunk)
            if on_bytes:
                on_bytes(len(chunk))
    return digest.hexdigest()
