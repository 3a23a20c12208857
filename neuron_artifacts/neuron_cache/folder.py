"""The registry that optimum-neuron keeps in the local compile cache, before it is synchronized.

The local cache and a cache repository have the same layout, so one reader serves both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from neuron_artifacts._files import read_regular
from neuron_artifacts.errors import StoreError
from neuron_artifacts.neuron_cache.client import MAX_FILE_BYTES
from neuron_artifacts.neuron_cache.registry import COMPILER_PREFIX, REGISTRY
from neuron_artifacts.neuron_cache.responses import Item


class FolderRepository:
    """A folder in the layout of a cache repository."""

    commit: str | None = None
    age: float | None = None

    def __init__(self, root: Path) -> None:
        self._root = root

    def has_registry(self) -> bool:
        """Whether optimum-neuron ever exported with this cache."""
        return any(self._root.glob(f"{COMPILER_PREFIX}*/{REGISTRY}"))

    def list_folder(self, folder: str = "", *, recursive: bool = False) -> tuple[Item, ...]:
        """What lies in a folder; nothing if there is no such folder.

        Raises
        ------
        StoreError
            It is there and cannot be read.
        """
        return tuple(self._list(folder, recursive))

    def read(self, items: Sequence[Item]) -> dict[str, bytes | str]:
        """The bytes of each file by its path, or in words why there are none."""
        return {item.path: self._read(item) for item in items}

    def exist(self, paths: Sequence[str]) -> frozenset[str]:
        """Which of these files and folders there are."""
        return frozenset(path for path in paths if (self._root / path).exists())

    def _list(self, folder: str, recursive: bool) -> Iterator[Item]:
        try:
            with os.scandir(self._root / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreError(f"{self._root / folder} cannot be read: {error.strerror}") from error
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield Item(path, "", 0, True)
                if recursive:
                    yield from self._list(path, recursive)
            elif entry.is_file():
                yield Item(path, _identity(entry), entry.stat().st_size, False)

    def _read(self, item: Item) -> bytes | str:
        try:
            return read_regular(self._root / item.path, MAX_FILE_BYTES)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        except ValueError as error:
            return f"it is {error}, too much for an entry"


def _identity(entry: os.DirEntry[str]) -> str:
    """What an entry and its alias have in common: the alias is a link to it."""
    stat = entry.stat()
    return f"{stat.st_dev:x}-{stat.st_ino:x}"
