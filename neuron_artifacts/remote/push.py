"""Push: send what the remote store lacks, then make the artifact visible there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts._files import hash_file
from neuron_artifacts.artifact import (
    MANIFEST_NAME,
    SIDECARS,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    parse_manifest,
    verify_artifact,
)
from neuron_artifacts.errors import MissError
from neuron_artifacts.events import Note, Observer, ignore
from neuron_artifacts.remote.collect import announced
from neuron_artifacts.remote.manifest import Reference, RemoteManifest, Sidecar
from neuron_artifacts.remote.moving import Meter, in_parallel, persistently
from neuron_artifacts.remote.port import Blob, RemoteStore, unique
from neuron_artifacts.remote.pull import read_remote
from neuron_artifacts.remote.references import find_references
from neuron_artifacts.store.leases import hold
from neuron_artifacts.store.staging import reading

Weights = Literal["copy", "by-reference"]


@dataclass(frozen=True)
class Pushed:
    """What a push did. ``published`` is false where the key was there already."""

    key: str
    published: bool
    total_bytes: int
    sent_bytes: int
    referenced_bytes: int
    files: int
    sent_files: int
    seconds: float


def push_artifact(
    remote: RemoteStore,
    directory: Path,
    *,
    weights: Weights = "copy",
    observe: Observer = ignore,
) -> Pushed:
    """Put an artifact into a remote store; only what is missing there travels.

    Pushing a key that is there mends it: blobs that got lost are sent again.

    Raises
    ------
    MissError, CorruptError, IncompatibleError
        The directory holds no whole artifact.
    RemoteError
        The store does not answer, or refuses.
    RefusedError, HubError
        The weights cannot be left by reference.
    """
    with hold(directory, is_use=False):
        return _push(remote, directory, weights, observe)


def _push(remote: RemoteStore, directory: Path, weights: Weights, observe: Observer) -> Pushed:
    began = time.monotonic()
    with reading(directory):
        manifest, data = _read(directory)
    references = find_references(manifest) if weights == "by-reference" else {}
    if weights == "by-reference":
        _tell_copied(manifest, references, observe)
    with reading(directory):
        blobs, sidecars = _blobs(directory, manifest, references)
    digests = [blob.sha256 for blob in blobs]
    with announced(remote, digests, observe):
        there = persistently(lambda: remote.sizes(digests))
        missing = [blob for blob in blobs if there.get(blob.sha256) != blob.size]
        meter = Meter("pushing", sum(blob.size for blob in missing), observe)
        in_parallel(lambda blob: _send(remote, blob, meter), missing)
        whole = RemoteManifest(data, sidecars, references)
        published = persistently(lambda: remote.publish(whole))
    if not published:
        _tell_signature(remote, whole, observe)
    return Pushed(
        manifest.key, published, sum(blob.size for blob in blobs), meter.done,
        sum(f.size for f in manifest.files if f.sha256 in references),
        len(blobs), len(missing), time.monotonic() - began,
    )  # fmt: skip


def _read(directory: Path) -> tuple[Manifest, bytes]:
    verdict = verify_artifact(directory)
    if verdict.status != "ok":
        raise verdict.error()
    data = (directory / MANIFEST_NAME).read_bytes()
    return parse_manifest(data), data


def _blobs(
    directory: Path, manifest: Manifest, references: Mapping[str, Reference]
) -> tuple[list[Blob], tuple[Sidecar, ...]]:
    sidecars = []
    for name in sorted(SIDECARS - {MANIFEST_NAME}):
        path = directory / name
        if path.is_file():
            sidecars.append(Sidecar(name, path.stat().st_size, hash_file(path)))
    files = [file for file in manifest.files if file.sha256 not in references]
    stored: list[FileEntry | Sidecar] = [*files, *sidecars]
    blobs = [Blob(directory / f.path, f.size, f.sha256) for f in stored]
    return unique(blobs), tuple(sidecars)


def _send(remote: RemoteStore, blob: Blob, meter: Meter) -> None:
    sent = 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size
        meter.add(size)

    def attempt() -> None:
        nonlocal sent
        meter.add(-sent)
        sent = 0
        try:
            remote.write(blob, count)
        except FileNotFoundError as error:
            raise MissError(f"{blob.path} vanished while it was pushed") from error

    persistently(attempt)


def _tell_signature(remote: RemoteStore, whole: RemoteManifest, observe: Observer) -> None:
    """What is published stays as it is: a signature that came later does not get there."""
    there = read_remote(remote, whole.artifact.key)
    if _signature(whole) not in (None, _signature(there)):
        observe(
            Note(
                f"{remote.url} keeps {whole.artifact.key[:16]} with the signatures it was first "
                "pushed with, and those here are others: sign before the first push"
            )
        )


def _signature(whole: RemoteManifest) -> str | None:
    return next((s.sha256 for s in whole.sidecars if s.path == SIGNATURE_NAME), None)


def _tell_copied(
    manifest: Manifest, references: Mapping[str, Reference], observe: Observer
) -> None:
    copied = [f for f in manifest.files if f.role == "weights" and f.sha256 not in references]
    if copied:
        names = ", ".join(file.path for file in copied[:3])
        observe(
            Note(f"{len(copied)} weight files are not on the hub and are pushed whole: {names}")
        )
