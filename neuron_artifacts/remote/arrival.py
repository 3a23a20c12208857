"""The last steps of everything that comes in: is there room, is it there, make it visible."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from neuron_artifacts.artifact import Manifest, verify_artifact
from neuron_artifacts.errors import IncompatibleError, ResourceError, StoreError
from neuron_artifacts.store import LocalStore, Staging
from neuron_artifacts.store.staging import storing

Approve = Callable[[Path], object]
"""Asked about a directory with a manifest and its signatures; raises what speaks against it."""


Join = Callable[[Path, Sequence[bytes]], int]
"""Adds envelopes to the signatures of the artifact in a directory; how many were added to it."""


def approve_all(_directory: Path) -> None:
    """Nobody is asked."""


def join_none(_directory: Path, _envelopes: Sequence[bytes]) -> int:
    """No signature is taken that came later."""
    return 0


def is_whole(destination: Path, key: str, store: LocalStore) -> bool:
    """Whether the artifact lies there, byte for byte.

    Raises
    ------
    StoreError
        Something lies there that cannot be read: it may well be whole.
    """
    verdict = verify_artifact(destination, "full", digests=store.digests)
    if verdict.status == "unreadable":
        raise verdict.error()
    return verdict.status == "ok" and verdict.manifest is not None and verdict.manifest.key == key


def check_space(staging: Staging, needed: int) -> None:
    """Refuse what the disk cannot hold.

    Raises
    ------
    ResourceError
        With both figures.
    """
    with storing(staging.path):
        free = shutil.disk_usage(staging.path).free
    if needed > free:
        raise ResourceError(
            f"the artifact needs {needed / 1e9:.1f} GB more in {staging.path.parent}, "
            f"where {free / 1e9:.1f} GB are free",
            hint="free space there, or choose another place with --store",
        )


def publish_staged(
    staging: Staging, manifest: Manifest, listed: bytes, store: LocalStore, destination: Path
) -> Path | None:
    """Publish; what lies there broken makes way, and whoever was faster has won.

    ``listed`` are the bytes of ``artifact.json`` as they came, which a signature may cover.
    Returns where the broken went.

    Raises
    ------
    IncompatibleError
        Those bytes are not what this release would write.
    StoreError
        A file is not on the disk as it arrived; or something that is no artifact lies there, or
        keeps coming back.
    """
    if differing := sorted(f.path for f in set(manifest.files) - set(staging.files)):
        raise StoreError(
            f"{staging.path / differing[0]} was not written as it arrived",
            hint="run the command again; if that does not help, check the disk",
        )
    if manifest.dump() != listed:
        raise IncompatibleError(
            f"{manifest.key} has its manifest in a spelling of another release",
            hint="use the neuron-artifacts release that wrote it",
        )
    set_aside = None
    for _ in range(3):
        if staging.publish(manifest, destination) or is_whole(destination, manifest.key, store):
            return set_aside
        _refuse_foreign(destination, store)
        set_aside = store.set_aside(destination)
    raise StoreError(f"{destination} cannot be published: something else keeps it occupied")


def _refuse_foreign(destination: Path, store: LocalStore) -> None:
    verdict = verify_artifact(destination)
    if verdict.manifest is None and destination.parent != store.root:
        raise StoreError(
            f"{destination} exists and holds something else than an artifact of this tool",
            hint="name a new or empty directory; nothing there was touched",
        )
