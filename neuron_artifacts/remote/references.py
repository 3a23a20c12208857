"""Weights that a hub has: named in the remote manifest instead of stored a second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.errors import RefusedError
from neuron_artifacts.model.hub_client import HubClient
from neuron_artifacts.remote.hub import quietly
from neuron_artifacts.remote.manifest import Reference
from neuron_artifacts.remote.port import OnBytes


def find_references(manifest: Manifest) -> dict[str, Reference]:
    """Where the model's own hub has the artifact's weight files, by digest.

    The hub is asked: only a file whose SHA-256 it lists at the recorded commit counts.

    Raises
    ------
    RefusedError
        The model was a folder.
    HubError, ModelNotFoundError
        The hub does not answer, or has no such commit.
    """
    source, revision = manifest.model.get("source"), manifest.model.get("revision")
    if not isinstance(source, str) or not isinstance(revision, str):
        raise RefusedError(
            "the weights came from a folder, so there is no hub to refer to",
            hint="push without --weights by-reference",
        )
    client = HubClient(source, revision, None, None)
    with quietly(), client.explained():
        listing = client.list_files(revision)
    places = {remote.sha256: name for name, remote in listing.files.items() if remote.sha256}
    return {
        file.sha256: Reference(source, listing.commit, places[file.sha256])
        for file in manifest.files
        if file.role == "weights" and file.sha256 in places
    }


def fetch_reference(reference: Reference, size: int, on_bytes: OnBytes) -> Path:
    """The hub cache's copy of a referenced file, downloaded if it is not there.

    Raises
    ------
    HubError, ModelNotFoundError, ResourceError
        With what to do about a private or gated repository.
    """
    client = HubClient(reference.repo, reference.revision, None, None, _adding(on_bytes))
    with quietly():
        return client.fetch(reference.path, reference.revision, size).resolve()


def _adding(on_bytes: OnBytes) -> Callable[[str, int, int], None]:
    """Turns totals, which huggingface_hub tells, into what was added."""
    done = 0

    def tell(_name: str, now: int, _total: int) -> None:
        nonlocal done
        on_bytes(now - done)
        done = now

    return tell
