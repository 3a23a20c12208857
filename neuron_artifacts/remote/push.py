"""Push: send what the remote store lacks, then make the artifact visible there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts._files import hash_file
from neuron_artifacts.artifact import (
    MANIFEST_NAME,
    SIDECARS,
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
from neuron_artifacts.remote.port import MAX_SIGNATURE_BYTES, Blob, RemoteStore, unique
from neuron_artifacts.remote.pull import read_remote
from neuron_artifacts.remote.references import find_references
from neuron_artifacts.store.leases import hold
from neuron_artifacts.store.staging import reading

Weights = Literal["copy", "by-reference"]


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    ``published`` is false where the key was there already; ``signed``, that signatures were added
    to it.
    """

    key: str
    published: bool
    total_bytes: int
    sent_bytes: int
    referenced_bytes: int
    files: int
    sent_files: int
    seconds: float
    signed: bool = False


def push_artifact(
    remote: RemoteStore,
    directory: Path,
    *,
    weights: Weights = "copy",
    observe: Observer = ignore,
) -> Pushed:
    """Put an artifact into a remote store; only what is missing there travels.

    Pushing a key that is there mends it: blobs that got lost are sent again, and signatures that
    were made since are added.

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
    before = _published(remote, manifest.key)
    with reading(directory):
        sidecars = _sidecars(directory)
        named = [s for s in sidecars if before is None or s in before.sidecars]
        blobs = _blobs(directory, manifest, references, named)
    digests = [blob.sha256 for blob in blobs]
    with announced(remote, [*digests, manifest.key], observe):
        there = persistently(lambda: remote.sizes(digests))
        missing = [blob for blob in blobs if there.get(blob.sha256) != blob.size]
        meter = Meter("pushing", sum(blob.size for blob in missing), observe)
        in_parallel(lambda blob: _send(remote, blob, meter), missing)
        whole = RemoteManifest(data, sidecars, references)
        published = persistently(lambda: remote.publish(whole))
    signed = not published and _sign_later(remote, whole, directory, observe)
    return Pushed(
        manifest.key, published, sum(blob.size for blob in blobs), meter.done,
        sum(f.size for f in manifest.files if f.sha256 in references),
        len(blobs), len(missing), time.monotonic() - began, signed,
    )  # fmt: skip


def _read(directory: Path) -> tuple[Manifest, bytes]:
    verdict = verify_artifact(directory)
    if verdict.status != "ok":
        raise verdict.error()
    data = (directory / MANIFEST_NAME).read_bytes()
    return parse_manifest(data), data


def _published(remote: RemoteStore, key: str) -> RemoteManifest | None:
    try:
        return read_remote(remote, key)
    except MissError:
        return None


def _sidecars(directory: Path) -> tuple[Sidecar, ...]:
    sidecars = []
    for name in sorted(SIDECARS - {MANIFEST_NAME}):
        path = directory / name
        if path.is_file():
            sidecars.append(Sidecar(name, path.stat().st_size, hash_file(path)))
    return tuple(sidecars)


def _blobs(
    directory: Path,
    manifest: Manifest,
    references: Mapping[str, Reference],
    sidecars: Sequence[Sidecar],
) -> list[Blob]:
    """What must lie in the remote store, each content once."""
    files = [file for file in manifest.files if file.sha256 not in references]
    stored: list[FileEntry | Sidecar] = [*files, *sidecars]
    return unique(Blob(directory / f.path, f.size, f.sha256) for f in stored)


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


def _sign_later(
    remote: RemoteStore, whole: RemoteManifest, directory: Path, observe: Observer
) -> bool:
    """Add the signatures here to an artifact that is there; whether there was one to add."""
    key, ours = whole.artifact.key, whole.signature
    if ours is None:
        return False
    there = read_remote(remote, key)
    if there.artifact_json != whole.artifact_json:
        observe(
            Note(f"{remote.url} has another build of {key[:16]}: the signatures here stay here")
        )
        return False
    if ours.size > MAX_SIGNATURE_BYTES:
        observe(Note(f"{directory / ours.path} is too large to be added to {remote.url}"))
        return False
    with reading(directory):
        envelope = (directory / ours.path).read_bytes()
    if there.signature == ours or envelope in persistently(lambda: remote.signatures(key)):
        return False
    persistently(lambda: remote.add_signature(key, envelope))
    return True


def _tell_copied(
    manifest: Manifest, references: Mapping[str, Reference], observe: Observer
) -> None:
    copied = [f for f in manifest.files if f.role == "weights" and f.sha256 not in references]
    if copied:
        names = ", ".join(file.path for file in copied[:3])
        observe(
            Note(f"{len(copied)} weight files are not on the hub and are pushed whole: {names}")
        )
