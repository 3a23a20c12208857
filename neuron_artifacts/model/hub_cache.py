"""huggingface_hub's cache of one repository: what is in it, whether it is whole, who vouches.

Layout: ``snapshots/<commit>/<name>`` links to ``blobs/<etag>``, and the ETag of a file in LFS is
its SHA-256 (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). The cache does not
say which files a commit has, so what the hub listed is remembered beside our digests: without a
network it then tells a whole copy from one that another tool fetched in part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from neuron_artifacts._files import is_sha256, load_json_object, user_cache_dir, write_atomically
from neuron_artifacts.errors import ModelFormatError, ModelNotFoundError
from neuron_artifacts.model.snapshot import (
    CONFIG_NAME,
    INDEX_NAME,
    SINGLE_NAME,
    ModelFile,
    ModelSnapshot,
    is_asset,
    read_folder,
    weight_names,
)

_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Remote:
    """A file as the hub lists it; ``sha256`` is known where it is kept in LFS."""

    size: int
    sha256: str | None

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 0:
            raise ValueError(f"no size: {self.size!r}")
        if self.sha256 is not None and not is_sha256(self.sha256):
            raise ValueError(f"no SHA-256: {self.sha256!r}")


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: Mapping[str, Remote]


class HubCache:
    """The cached part of one repository."""

    def __init__(self, repo_id: str, root: Path) -> None:
        self.repo_id = repo_id
        self.root = root

    def find(self, name: str, revision: str) -> Path | None:
        """The snapshot's entry for a file, or ``None`` if it is not there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.repo_id, name, cache_dir=self.root, revision=revision, repo_type="model"
        )
        return Path(found) if isinstance(found, str) else None

    def folder(self, revision: str) -> Path:
        """The snapshot folder of a revision whose config is cached."""
        config = self.find(CONFIG_NAME, revision)
        if config is None:
            raise ModelNotFoundError(f"{self.root} has no {CONFIG_NAME} of {self.repo_id}")
        return config.parent

    def lacking(self, revision: str) -> str | None:
        """The first file that a copy of the revision lacks; ``None`` if the copy is whole.

        Where no listing is remembered, at least a tokenizer is asked for: other tools fetch
        config and weights alone.
        """
        config = self.find(CONFIG_NAME, revision)
        if config is None:
            return CONFIG_NAME
        listing = self.recall(config.parent.name)
        listed = listing.files if listing else {_TOKENIZER: None}
        needed = [name for name in listed if is_asset(name) or name == INDEX_NAME]
        lacking = [name for name in needed if self.find(name, revision) is None]
        if not lacking:
            has_index = (config.parent / INDEX_NAME).is_file()
            weights = weight_names(config.parent)[0] if has_index else (SINGLE_NAME,)
            lacking = [name for name in weights if self.find(name, revision) is None]
        return next(iter(lacking), None)

    def read(self, revision: str, listing: Listing | None = None) -> ModelSnapshot:
        """The cached copy, checked against what the hub lists or listed where that is known."""
        folder = self.folder(revision)
        commit = folder.name
        listing = listing or self.recall(commit) or Listing(commit, {})
        snapshot = read_folder(folder, name=self.repo_id, revision=commit)
        return replace(
            snapshot,
            weight_files=tuple(self.file(f.name, listing) for f in snapshot.weight_files),
            asset_files=tuple(self.file(f.name, listing) for f in snapshot.asset_files),
        )

    def file(self, name: str, listing: Listing) -> ModelFile:
        """A cached file at its real place, with the digest that somebody vouches for.

        Raises
        ------
        ModelFormatError
            Its size is not what the hub says.
        """
        entry = self.folder(listing.commit) / name
        real = entry.resolve()
        size = real.stat().st_size
        remote = listing.files.get(name, Remote(size, None))
        if size != remote.size:
            raise ModelFormatError(
                f"{real} has {size} bytes where the hub says {remote.size}",
                hint="it was cut short or changed: delete it, then run the command again",
            )
        return ModelFile(name, size, real, remote.sha256 or _vouched(entry))

    def remember(self, listing: Listing) -> None:
        """Keep what the hub listed; a folder that cannot be written costs only this."""
        files = {
            name: [remote.size, remote.sha256]
            for name, remote in listing.files.items()
            if is_asset(name) or name in (CONFIG_NAME, INDEX_NAME) or name.endswith(".safetensors")
        }
        record = self._record(listing.commit)
        try:
            record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not record.exists():
                write_atomically(record, json.dumps({"files": files}).encode())
        except OSError:
            pass

    def recall(self, commit: str) -> Listing | None:
        """What the hub once listed at a commit."""
        try:
            files = load_json_object(self._record(commit).read_bytes())["files"]
            return Listing(commit, {name: Remote(*value) for name, value in files.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _record(self, commit: str) -> Path:
        return user_cache_dir() / "hub" / f"{self.repo_id.replace('/', '--')}@{commit}.json"


def _vouched(entry: Path) -> str | None:
    # Only the first link leads to the name that is a SHA-256: newer caches link a blob further,
    # to a store where names are Xet hashes, which look the same.
    name = entry.readlink().name if entry.is_symlink() else ""
    return name if is_sha256(name) else None
