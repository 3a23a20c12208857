"""An artifact as a server sees it: a folder that may be ruined.

NxD Inference's loaders compile into the very folder they failed to load from, so they never get
the artifact's. A view holds copies of small files and links to large ones. The first thing a
compile writes is a small file (``config.save``, before minutes of compiling), so it hits a copy,
and is seen. Large files are written through a link only at a compile's end; then, too, the file's
own mode stands against it, except for root. That is why :func:`take_snapshot` remembers both
folders, and the server is ended at the first difference.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron_artifacts.errors import StoreError

SMALL = 16 << 20
"""Bytes up to which a file is copied."""

Snapshot = dict[str, tuple[int, int, int]]


@contextmanager
def open_view(artifact: Path, folder: Path, names: Container[str] | None = None) -> Iterator[Path]:
    """A view of ``artifact`` at ``folder``, which must not exist; it is gone afterwards.

    ``names`` are the files to offer, where not all: those whose digests held.

    Raises
    ------
    StoreError
        It cannot be made.
    """
    try:
        _make(artifact.absolute(), folder, names)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def take_snapshot(*folders: Path) -> Snapshot:
    """Size, time of change (ns) and inode of every file; links count as what they point at."""
    return {str(path): found for folder in folders for path, found in _walk(folder)}


def first_difference(before: Snapshot, after: Snapshot) -> str | None:
    """A file that came, went or changed between two snapshots."""
    if before == after:
        return None
    return min(dict(before.items() ^ after.items()))


def _make(artifact: Path, folder: Path, wanted: Container[str] | None) -> None:
    folder.mkdir(mode=0o700)
    made = [folder]
    for place, folders, names in os.walk(artifact):
        here = folder / Path(place).relative_to(artifact)
        for name in folders:
            (here / name).mkdir()
            made.append(here / name)
        for name in names:
            path = Path(place, name)
            if wanted is None or path.relative_to(artifact).as_posix() in wanted:
                _offer(path, here / name)
    for path in made:
        path.chmod(0o555)


def _offer(source: Path, destination: Path) -> None:
    if source.stat().st_size > SMALL:
        destination.symlink_to(source)
    else:
        shutil.copyfile(source, destination)
        destination.chmod(0o444)


def _walk(folder: Path) -> Iterator[tuple[Path, tuple[int, int, int]]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                stat = path.stat()
            except OSError:
                yield path, (-1, 0, 0)
            else:
                yield path, (stat.st_size, stat.st_mtime_ns, stat.st_ino)
