"""Models of a Hugging Face hub, as snapshots: a revision is resolved to a commit once, and
everything is read at that commit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from neuron_artifacts._files import DigestCache, hash_file
from neuron_artifacts.errors import HubError, ModelFormatError, ResourceError
from neuron_artifacts.model.hub_cache import HubCache, Listing, Remote
from neuron_artifacts.model.hub_client import HubClient, Progress, bar_class, quiet
from neuron_artifacts.model.hub_errors import explain, failures, is_outage
from neuron_artifacts.model.safetensors_header import (
    TensorInfo,
    header_end,
    parse_header,
    read_header,
)
from neuron_artifacts.model.snapshot import (
    CONFIG_NAME,
    INDEX_NAME,
    ModelFile,
    ModelSnapshot,
    check_index,
    is_asset,
    pick_weights,
    read_json,
    weight_names,
)

_FIRST_READ = 128 << 10  # holds the header of most shards; a longer one takes a second request
_POOL = 8

T = TypeVar("T")
U = TypeVar("U")


def download_repository(
    repo_id: str,
    revision: str | None = None,
    *,
    progress: Progress | None = None,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> ModelSnapshot:
    """Bring a model into the hub cache and read it there; what is cached is not fetched again.

    Only config, tokenizer and safetensors files are fetched. A weight file that arrives is hashed
    and compared with the digest the hub promises. Without a hub, a whole cached copy answers.

    Raises
    ------
    ModelNotFoundError
        No such repository or revision.
    ModelFormatError
        The repository lacks a file, or one is malformed.
    ResourceError
        The disk has too little space.
    HubError
        The hub cannot be reached or refuses, and the cache has no whole copy.
    """
    client = HubClient(repo_id, revision, endpoint, cache_dir, progress)
    model = _Model(client)
    with quiet(), client.explained(OSError):
        listing = model.list_files()
        if listing is None:
            return model.cache.read(client.revision)
        model.fetch_weights(model.fetch_small(listing), listing)
        return model.cache.read(listing.commit, listing)


def describe_repository(
    repo_id: str,
    revision: str | None = None,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> ModelSnapshot:
    """Read a model but leave its weights at the hub, as far as they are not cached.

    Sizes and digests of weight files are the hub's, tensors come from the first bytes of each
    file, and the path of one that is not cached is ``None``.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, HubError
        As :func:`download_repository`.
    """
    client = HubClient(repo_id, revision, endpoint, cache_dir)
    model = _Model(client)
    with quiet(), client.explained(OSError):
        listing = model.list_files()
        if listing is None:
            return model.cache.read(client.revision)
        names = model.fetch_small(listing)
        described = _in_parallel(lambda name: model.describe_weights(name, listing), names)
    folder = model.cache.folder(listing.commit)
    index = read_json(folder / INDEX_NAME) if INDEX_NAME in listing.files else None
    tensors = {file.name: header for file, header in described}
    check_index(repo_id, index, tensors)
    assets = [name for name in listing.files if is_asset(name)]
    return ModelSnapshot(
        name=repo_id, revision=listing.commit, root=folder,
        config=read_json(folder / CONFIG_NAME),
        weight_files=tuple(file for file, _ in described),
        asset_files=tuple(model.cache.file(name, listing) for name in assets),
        tensors=tensors, index=index,
    )  # fmt: skip


def describe_compiled_repository(
    repo_id: str,
    is_compiled: Callable[[str], bool],
    revision: str | None = None,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> ModelSnapshot | None:
    """A repository that holds a compiled model instead of a checkpoint, or ``None``.

    ``is_compiled`` tells its files by name; they stay at the hub, described by size and digest.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, HubError
        As :func:`download_repository`.
    """
    client = HubClient(repo_id, revision, endpoint, cache_dir)
    model = _Model(client)
    with quiet(), client.explained(OSError):
        listing = model.list_files()
        if listing is None or not any(map(is_compiled, listing.files)):
            return None
        small = [name for name in listing.files if is_asset(name)]
        configs = [name for name in listing.files if name.endswith("config.json")]
        _in_parallel(lambda name: client.fetch(name, listing.commit), [*small, *configs])
    folder = model.cache.folder(listing.commit)
    return ModelSnapshot(
        name=repo_id, revision=listing.commit, root=folder,
        config=read_json(folder / CONFIG_NAME),
        weight_files=tuple(
            ModelFile(name, remote.size, None, remote.sha256)
            for name, remote in sorted(listing.files.items())
            if is_compiled(name) and remote.sha256
        ),
        asset_files=tuple(model.cache.file(name, listing) for name in small),
        tensors={},
    )  # fmt: skip


def download_weight_file(
    repo_id: str,
    revision: str | None,
    name: str,
    *,
    progress: Progress | None = None,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """Bring one weight file of a model into the hub cache, checked like a whole download.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, ResourceError, HubError
        As :func:`download_repository`.
    """
    client = HubClient(repo_id, revision, endpoint, cache_dir, progress)
    model = _Model(client)
    with quiet(), client.explained(OSError):
        listing = model.list_files()
        if listing is not None and name in listing.files:
            model.fetch_weights((name,), listing)
    found = model.cache.find(name, listing.commit if listing else client.revision)
    if found is None:
        raise ModelFormatError(f"{repo_id} has no {name}")
    return found


class _Model:
    """One revision of one repository, between the hub and the cache."""

    def __init__(self, client: HubClient) -> None:
        self.client = client
        self.repo_id = client.repo_id
        self.cache = HubCache(client.repo_id, client.cache_dir)

    def list_files(self) -> Listing | None:
        """The files at the revision; ``None`` if the hub cannot be asked but the cache has all.

        The config is fetched by the revision's name, so that the cache can resolve it later.
        """
        revision = self.client.revision
        try:
            listing = self.client.list_files(revision)
        except failures() as error:
            self._require_cached(error)
            return None
        if CONFIG_NAME not in listing.files:
            raise ModelFormatError(
                f"{self.repo_id} has no {CONFIG_NAME}",
                hint="name a repository in Hugging Face layout: config.json beside the weights",
            )
        config = self.cache.find(CONFIG_NAME, revision)
        if config is None or config.parent.name != listing.commit:
            config = self.client.fetch(CONFIG_NAME, revision)
        if config.parent.name != listing.commit:  # the branch moved between the two requests
            with self.client.explained():
                listing = self.client.list_files(config.parent.name)
        self.cache.remember(listing)
        return listing

    def fetch_small(self, listing: Listing) -> tuple[str, ...]:
        """Fetch config, tokenizer and index; returns the names of the weight files."""
        entry = pick_weights([name for name in listing.files if "/" not in name], self.repo_id)
        wanted = [
            name for name in listing.files if is_asset(name) or name in (CONFIG_NAME, INDEX_NAME)
        ]
        _in_parallel(lambda name: self.client.fetch(name, listing.commit), wanted)
        if entry != INDEX_NAME:
            return (entry,)
        shards, _ = weight_names(self.cache.folder(listing.commit))
        for name in shards:
            if name not in listing.files:
                raise ModelFormatError(f"{self.repo_id} lacks {name}, which its index names")
        return shards

    def fetch_weights(self, names: Sequence[str], listing: Listing) -> None:
        """Download the weight files that are not cached, one after the other, and hash each."""
        missing = [name for name in names if self.cache.find(name, listing.commit) is None]
        self._check_space(sum(listing.files[name].size for name in missing))
        for name in missing:
            entry = self.client.fetch(name, listing.commit, listing.files[name].size)
            self._verify(entry, name, listing.files[name])

    def describe_weights(
        self, name: str, listing: Listing
    ) -> tuple[ModelFile, Mapping[str, TensorInfo]]:
        """A weight file with its tensors: from the cache, else from its first bytes at the hub."""
        remote = listing.files[name]
        if remote.sha256 is None:  # kept in git itself: small, and only its bytes tell its digest
            self.client.fetch(name, listing.commit, remote.size)
        entry = self.cache.find(name, listing.commit)
        if entry is not None:
            return self.cache.file(name, listing), read_header(entry)
        where = f"{self.repo_id}/{name}"
        head = self.client.read_head(name, listing.commit, min(_FIRST_READ, remote.size))
        end = header_end(head, remote.size, where)
        if end > len(head):
            head = self.client.read_head(name, listing.commit, end)
        file = ModelFile(name, remote.size, None, remote.sha256)
        return file, parse_header(head, remote.size, where)

    def _verify(self, entry: Path, name: str, remote: Remote) -> None:
        """Hash a file that has just arrived; one with other bytes is removed again."""
        if remote.sha256 is None:
            return
        blob = entry.resolve()
        bar = bar_class(f"{name} (sha256)", remote.size, self.client.progress)
        found = hash_file(blob, bar().update)
        if found == remote.sha256:
            DigestCache().remember(blob, found, settled=True)
            return
        entry.unlink()
        blob.unlink(missing_ok=True)
        raise HubError(
            f"{self.repo_id}/{name} arrived damaged: sha256 {found} where the hub promises "
            f"{remote.sha256}; it was removed",
            hint="run the command again; a proxy or mirror may change files on the way",
        )

    def _check_space(self, needed: int) -> None:
        root = self.cache.root
        free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free
        if needed > free:
            raise ResourceError(
                f"{self.repo_id} needs {needed / 1e9:.1f} GB more in {root}, "
                f"where {free / 1e9:.1f} GB are free",
                hint="free some space, or set HF_HOME to a folder on a larger disk",
            )

    def _require_cached(self, error: Exception) -> None:
        """Pass only if the cache can stand in for a hub that did not answer."""
        explained = explain(error, self.client.asked)
        if not is_outage(error):
            raise explained from error
        lacking = self.cache.lacking(self.client.revision)
        if lacking:
            raise HubError(
                f"{explained}; the local cache has no {lacking} of {self.repo_id}, "
                "and there is no folder of that name",
                hint=explained.hint,
            ) from error


def _in_parallel(work: Callable[[U], T], items: Sequence[U]) -> list[T]:
    with ThreadPoolExecutor(max(1, min(_POOL, len(items)))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
