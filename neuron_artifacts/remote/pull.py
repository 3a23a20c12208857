"""Pull: bring an artifact into the local store, fetching only what this machine lacks."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from neuron_artifacts.artifact import MANIFEST_NAME, FileEntry
from neuron_artifacts.errors import (
    CorruptError,
    IncompatibleError,
    MissError,
    RemoteError,
    StoreError,
)
from neuron_artifacts.events import Note, Observer, ignore
from neuron_artifacts.remote.arrival import (
    Approve,
    Join,
    approve_all,
    check_space,
    is_whole,
    join_none,
    publish_staged,
)
from neuron_artifacts.remote.incoming import Incoming, collect_incoming
from neuron_artifacts.remote.manifest import RemoteManifest, Sidecar, parse_remote_manifest
from neuron_artifacts.remote.moving import Meter, in_parallel, persistently
from neuron_artifacts.remote.port import RemoteStore, take
from neuron_artifacts.remote.references import fetch_reference
from neuron_artifacts.store import LocalStore, Staging
from neuron_artifacts.store.staging import storing


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    ``resumed_bytes`` an earlier pull had fetched, ``linked_bytes`` were in other artifacts here,
    ``hub_bytes`` came from a hub or its cache. ``signatures`` are those that were made after the
    artifact was published, or after it was pulled.
    """

    key: str
    path: Path
    already_there: bool = False
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    linked_bytes: int = 0
    hub_bytes: int = 0
    signatures: int = 0
    set_aside: Path | None = None
    seconds: float = 0.0


def read_remote(remote: RemoteStore, key: str) -> RemoteManifest:
    """What a remote store holds under a key.

    Raises
    ------
    MissError
        Nothing.
    CorruptError, IncompatibleError, RemoteError
        It cannot be read.
    """
    data = persistently(lambda: remote.read_manifest(key))
    if data is None:
        raise MissError(
            f"{remote.url} has no artifact {key}",
            hint="neuron-artifacts cache-lookup lists what remote stores hold",
        )
    return parse_remote_manifest(data, key, remote.url)


def pull_artifact(
    remote: RemoteStore,
    key: str,
    store: LocalStore,
    *,
    destination: Path | None = None,
    approve: Approve = approve_all,
    join: Join = join_none,
    observe: Observer = ignore,
) -> Pulled:
    """Make an artifact of a remote store visible here, whole or not at all.

    ``join`` gets the signatures that came after publishing, also of an artifact that is here. Then
    ``approve`` is asked, with a directory that holds the manifest and its signatures; what
    it raises ends the pull before a single listed file travels. Every byte is checked against the
    manifest's digests. What lies broken at the destination is set aside.

    Raises
    ------
    MissError
        The remote store has no such key, or has lost a file of it.
    CorruptError
        The remote store or a hub sends other bytes than were pushed.
    ResourceError
        The disk is too small.
    RemoteError, HubError, StoreError
    """
    began = time.monotonic()
    destination = destination or store.path(key)
    if is_whole(destination, key, store):
        joined = _join_here(remote, key, destination, join, observe)
        approve(destination)
        collect_incoming(destination.parent)
        return Pulled(
            key, destination, already_there=True, signatures=joined,
            seconds=time.monotonic() - began,
        )  # fmt: skip
    with Incoming(destination.parent, store.digests) as incoming:
        with store.stage(key, destination) as staging:
            pull = _Pull(remote, read_remote(remote, key), store, staging, incoming, observe)
            pull.lay_sidecars()
            joined = join(staging.path, _later_signatures(remote, key, observe))
            approve(staging.path)
            pull.run()
            listed = pull.whole.artifact_json
            set_aside = publish_staged(staging, pull.manifest, listed, store, destination)
    return replace(
        pull.outcome(destination), signatures=joined, set_aside=set_aside,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _later_signatures(remote: RemoteStore, key: str, observe: Observer) -> list[bytes]:
    """Trouble is told, and costs no more than what only they would admit."""
    try:
        return persistently(lambda: remote.signatures(key))
    except (RemoteError, CorruptError, MissError) as error:
        observe(Note(f"later signatures cannot be read: {error.message}", is_trouble=True))
        return []


def _join_here(
    remote: RemoteStore, key: str, directory: Path, join: Join, observe: Observer
) -> int:
    """Add what was signed elsewhere to an artifact that is here already."""
    if join is join_none:
        return 0
    try:
        published = read_signature(remote, read_remote(remote, key))
        later = persistently(lambda: remote.signatures(key))
        return join(directory, [*filter(None, (published,)), *later])
    except MissError:
        return 0
    except (StoreError, CorruptError, IncompatibleError) as error:
        observe(Note(f"no new signatures: {error.message}", is_trouble=True))
        return 0


def read_signature(remote: RemoteStore, whole: RemoteManifest) -> bytes | None:
    """The envelope an artifact was published with.

    Raises
    ------
    MissError, CorruptError, RemoteError
        The remote store lost it, or has other bytes.
    """
    sidecar = whole.signature
    if sidecar is None:
        return None
    data = persistently(
        lambda: take(remote.read(sidecar.sha256, sidecar.size), sidecar.size, remote.url)
    )
    if hashlib.sha256(data).hexdigest() != sidecar.sha256:
        raise CorruptError(
            f"{remote.url} sent other bytes for {sidecar.sha256} than its digest says"
        )
    return data


class _Pull:
    """One artifact on its way into a staging directory."""

    def __init__(
        self,
        remote: RemoteStore,
        whole: RemoteManifest,
        store: LocalStore,
        staging: Staging,
        incoming: Incoming,
        observe: Observer,
    ) -> None:
        self.manifest = whole.artifact
        self.whole, self._remote, self._store = whole, remote, store
        self._staging, self._incoming, self._observe = staging, incoming, observe
        self._linked = self._from_hub = 0

    def lay_sidecars(self) -> None:
        """Put the manifest and what is said about it into the staging directory."""
        sidecars = {sidecar.sha256: sidecar for sidecar in self.whole.sidecars}
        found = self._fetch_all(sidecars, ignore)
        with storing(self._staging.path):
            self._staging.reserve(MANIFEST_NAME).write_bytes(self.whole.artifact_json)
            for sidecar in self.whole.sidecars:
                shutil.copyfile(found[sidecar.sha256], self._staging.reserve(sidecar.path))

    def run(self) -> None:
        """Link or fetch every file that the manifest lists."""
        lacking = self._link_local()
        check_space(self._staging, sum({f.sha256: f.size for f in lacking}.values()))
        wanted = {file.sha256: file for file in lacking}
        found = self._fetch_all(wanted, self._observe)
        references = self.whole.references
        self._from_hub = sum(f.size for f in wanted.values() if f.sha256 in references)
        for file in lacking:
            self._place(found[file.sha256], file)

    def _fetch_all(
        self, wanted: Mapping[str, FileEntry | Sidecar], observe: Observer
    ) -> dict[str, Path]:
        meter = Meter("pulling", sum(entry.size for entry in wanted.values()), observe)
        paths = in_parallel(lambda entry: self._fetch(entry, meter), wanted.values())
        return dict(zip(wanted, paths, strict=True))

    def outcome(self, destination: Path) -> Pulled:
        return Pulled(
            self.manifest.key, destination, fetched_bytes=self._incoming.fetched_bytes,
            resumed_bytes=self._incoming.resumed_bytes, linked_bytes=self._linked,
            hub_bytes=self._from_hub,
        )  # fmt: skip

    def _link_local(self) -> list[FileEntry]:
        """Take what artifacts of this store have; returns what none has."""
        lacking = []
        sources = _local_files(self._store)
        for file in self.manifest.files:
            source = sources.get(file.sha256)
            if source and self._try_place(source, file):
                self._linked += file.size
            else:
                lacking.append(file)
        return lacking

    def _try_place(self, source: Path, file: FileEntry) -> bool:
        try:
            self._place(source, file)
        except (CorruptError, StoreError) as error:
            self._observe(Note(f"{source} cannot be used ({error}); fetching it"))
            return False
        return True

    def _place(self, source: Path, file: FileEntry) -> None:
        self._staging.place(source, file.path, file.role, sha256=file.sha256, may_hardlink=True)

    def _fetch(self, entry: FileEntry | Sidecar, meter: Meter) -> Path:
        reference = self.whole.references.get(entry.sha256)
        if reference:
            return fetch_reference(reference, entry.size, meter.add)
        return self._incoming.fetch(
            entry.sha256, entry.size,
            lambda start: self._remote.read(entry.sha256, entry.size, start),
            self._remote.url, meter.add,
        )  # fmt: skip


def _local_files(store: LocalStore) -> dict[str, Path]:
    return {
        file.sha256: path / file.path
        for path, manifest in store.manifests()
        for file in manifest.files
    }
