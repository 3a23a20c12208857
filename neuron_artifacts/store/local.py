"""A local store: artifacts by key, and the house-keeping around them."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuron_artifacts._files import DigestCache, advise, is_sha256, read_regular, write_atomically
from neuron_artifacts.artifact import MANIFEST_NAME, Manifest, read_manifest
from neuron_artifacts.errors import NeuronArtifactsError, StoreError
from neuron_artifacts.store.leases import STORE_NAME
from neuron_artifacts.store.owner import is_abandoned
from neuron_artifacts.store.staging import Staging, rename_without_replacing, storing

LOCKS = ".locks"
_MOST_SAID = 4096
"""Bytes that the holder of a lock may say."""


class LocalStore:
    """Artifacts below ``<base>/neuron-compiled-artifacts/<key>/``.

    ``base`` may be that directory itself. Beside the keys lie ``.staging`` (work in progress),
    ``.locks`` (which only save work) and ``.set-aside`` (what was found broken).
    """

    def __init__(self, base: Path, digests: DigestCache | None = None) -> None:
        base = base.expanduser()
        self.root = (base if base.name == STORE_NAME else base / STORE_NAME).absolute()
        self.digests = digests or DigestCache()

    def path(self, key: str) -> Path:
        return self.root / key

    def manifests(self) -> Iterator[tuple[Path, Manifest]]:
        """Artifacts with a readable manifest, newest first."""
        for path in self.directories():
            try:
                yield path, read_manifest(path)
            except NeuronArtifactsError:
                continue

    def directories(self) -> list[Path]:
        """Everything that lies where an artifact would, readable or not, newest first."""
        try:
            found = [p for p in self.root.iterdir() if _may_be_artifact(p)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be read: {error.strerror}", hint=advise(error)
            ) from error
        return sorted(found, key=_written, reverse=True)

    def stage(self, key: str, destination: Path | None = None) -> Staging:
        """A staging directory on the file system where the artifact will be published."""
        destination = destination or self.path(key)
        if destination.parent == self.root:
            return Staging(self.root / ".staging", key[:16], self.digests)
        return Staging(destination.parent, f".{destination.name}.staging", self.digests)

    def set_aside(self, directory: Path) -> Path:
        """Move a broken artifact out of the way; nothing is deleted."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        inside = directory.parent == self.root
        parent = self.root / ".set-aside" if inside else directory.parent
        base = directory.name if inside else f"{directory.name}.set-aside"
        with storing(directory):
            parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(1000):
                target = parent / f"{base}-{stamp}{f'-{attempt}' if attempt else ''}"
                if self._move(directory, target):
                    return target
        raise StoreError(
            f"{directory} cannot be set aside: too many like it", hint=f"clear {parent}"
        )

    def _move(self, directory: Path, target: Path) -> bool:
        """Rename a directory, or copy it where it lies in a layer of a container image.

        Such a layer (overlayfs without ``redirect_dir``) renames no directory. Then the copy is
        whole before the first file goes, and the manifest goes first: nobody takes what is left
        for an artifact.
        """
        try:
            return rename_without_replacing(directory, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with self.stage(directory.name, directory) as copy:
            shutil.copytree(directory, copy.path, symlinks=True, dirs_exist_ok=True)
            os.sync()
            if not rename_without_replacing(copy.path, target):
                return False
        (directory / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(directory)
        return True

    def abandoned(self, destination: Path | None = None) -> list[Path]:
        """Temporary directories whose writer is gone."""
        with suppress(OSError):
            candidates = list((self.root / ".staging").glob("*"))
            if destination and destination.parent != self.root:
                candidates += destination.parent.glob(f".{destination.name}.staging-*")
            return [path for path in candidates if path.is_dir() and is_abandoned(path)]
        return []

    def collect_abandoned(self, destination: Path | None = None) -> list[Path]:
        """Remove temporary directories whose writer is gone; those of the living stay."""
        found = self.abandoned(destination)
        for path in found:
            shutil.rmtree(path, ignore_errors=True)
        return found

    @contextmanager
    def building(self, key: str, on_wait: Callable[[str, float], None]) -> Iterator[None]:
        """Hold the build lock of a key, so that work is not done twice.

        ``on_wait(holder, seconds)`` is called now and then while another process holds it. A
        file system on which locks do not work costs double work, nothing else.
        """
        from filelock import FileLock, Timeout

        path = self.root / LOCKS / f"{key}.lock"
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock, began = FileLock(path), time.monotonic()
        while True:
            try:
                lock.acquire(timeout=1.0, poll_interval=0.1)
                break
            except Timeout:
                on_wait(_read_holder(path), time.monotonic() - began)
            except (OSError, NotImplementedError):
                yield
                return
        try:
            _tell_holder(path)
            yield
        finally:
            with suppress(OSError):
                lock.release()


def is_ours(path: Path) -> bool:
    """Whether what lies in a store may be moved or removed: nothing that somebody else put there.

    vLLM keeps directories of its own below the same name, and people put links beside keys.
    """
    if path.is_symlink():
        return False
    return is_sha256(path.name) or os.path.lexists(path / MANIFEST_NAME)


def _may_be_artifact(path: Path) -> bool:
    """A link beside the keys is another name of an artifact, not another one."""
    if path.name.startswith("."):
        return False
    try:
        return path.is_dir() and (is_sha256(path.name) or not path.is_symlink())
    except OSError:
        return True  # whoever reads it will say what is wrong with it


def _tell_holder(lock: Path) -> None:
    """Leave word for those who wait; whether they can read it matters to nobody else."""
    said = f"process {os.getpid()} on {socket.gethostname()}".encode()
    with suppress(OSError):
        write_atomically(lock.with_suffix(".holder"), said)  # never through somebody's link


def _read_holder(lock: Path) -> str:
    try:
        said = read_regular(lock.with_suffix(".holder"), _MOST_SAID).decode()
    except (OSError, ValueError):
        said = ""
    return said or "another process"


def _written(path: Path) -> float:
    try:
        return (path / MANIFEST_NAME).stat().st_mtime
    except OSError:
        return 0.0
