"""``file://``: a folder that several machines mount."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuron_artifacts._files import CHUNK, advise, sync, sync_directory, write_all
from neuron_artifacts.errors import MissError, RemoteError
from neuron_artifacts.remote.objects import Listed
from neuron_artifacts.store.owner import Owner, is_abandoned

_ARRIVING = ".arriving"


class FileObjects:
    """Objects as files below a folder; each appears by one link or rename.

    ``link(2)`` fails where the name is taken, on every file system that has hard links, NFS
    included; a file system without them cannot decide between two publishers, and is refused.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = root.as_uri()

    def head(self, name: str) -> int | None:
        with self._explained(name):
            try:
                status = (self._root / name).stat()
                return status.st_size if stat.S_ISREG(status.st_mode) else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def get(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        del size
        with self._explained(name):
            try:
                if not (self._root / name).is_file():  # a pipe would never begin
                    raise FileNotFoundError
                with (self._root / name).open("rb", buffering=0) as file:
                    file.seek(start)
                    while chunk := file.read(CHUNK):
                        yield chunk
            except (FileNotFoundError, NotADirectoryError):
                raise MissError(f"{self.url} has no {name}") from None

    def put(self, name: str, chunks: Iterator[bytes], size: int) -> None:
        del size
        target = self._root / name
        with self._explained(name), self._arriving(target, chunks) as temporary:
            temporary.replace(target)
            sync_directory(target.parent)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        target = self._root / name
        with self._explained(name), self._arriving(target, iter((data,))) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # Over NFS an answer can get lost: then the link is there, and it is ours.
                return temporary.stat().st_nlink > 1
            sync_directory(target.parent)
        return True

    def list(self, folder: str) -> Iterator[Listed]:
        with self._explained(folder):
            for path in sorted((self._root / folder).rglob("*")):
                with suppress(FileNotFoundError):  # gone between the looks
                    if path.is_file():
                        name, status = path.relative_to(self._root).as_posix(), path.stat()
                        yield Listed(name, status.st_size, status.st_mtime)

    def delete(self, name: str) -> None:
        with self._explained(name):
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def _arriving(self, target: Path, chunks: Iterator[bytes]) -> Iterator[Path]:
        """A synced file with these bytes, gone afterwards unless it was moved."""
        folder = self._root / _ARRIVING
        for place in (folder, target.parent):
            place.mkdir(parents=True, exist_ok=True)
        self._collect(folder)
        temporary = folder / f"{Owner.current().token}-{secrets.token_hex(4)}"
        try:
            with temporary.open("xb", buffering=0) as file:
                size = 0
                for chunk in chunks:
                    write_all(file, chunk)
                    size += len(chunk)
                sync(file, size)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _collect(folder: Path) -> None:
        """Remove what killed writers left."""
        for path in folder.iterdir():
            if is_abandoned(path):
                path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = advise(error)
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                hint = "the file system may lack hard links, which publishing needs"
            passing = error.errno in (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN)
            raise RemoteError(
                f"{self.url}: {name}: {error.strerror or error}", hint=hint, passing=passing
            ) from error
