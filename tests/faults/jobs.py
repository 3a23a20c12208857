"""The jobs that faults are put into: each works in a directory and can be begun again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.gc import collect_litter, plan_collection, remove, take_inventory
from tests.artifact.artifacts import make_document, make_manifest, publish


def publish_one(directory: Path) -> None:
    """Lay an artifact and publish it, unless that was done."""
    if not LocalStore(directory).path(make_document().key).exists():
        publish(directory)


def relink(directory: Path) -> None:
    """Publish a second artifact out of the files of the first, unless that was done."""
    store = LocalStore(directory, DigestCache(directory / "digests"))
    lender, key = store.path(make_document().key), make_document(relinked=True)
    if store.path(key.key).exists():
        return
    with store.stage(key.key) as staging:
        for file in read_manifest(lender).files:
            staging.place(
                lender / file.path, file.path, file.role, sha256=file.sha256, may_hardlink=True
            )
        staging.publish(make_manifest(key, staging.files), store.path(key.key))


def collect(directory: Path) -> None:
    """Remove every artifact of the store that nobody holds."""
    store = LocalStore(directory, DigestCache(directory / "digests"))
    entries, now = take_inventory(store)
    remove(store, plan_collection(entries, now=now, max_size=0).removals)
    collect_litter(store)


def set_aside(directory: Path) -> None:
    """Move an artifact that was found broken out of the way, and publish it anew."""
    store = LocalStore(directory, DigestCache(directory / "digests"))
    for path in store.directories():
        store.set_aside(path)
    publish_one(directory)


def nothing(_directory: Path) -> None:
    """No preparation."""


JOBS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "publish": (nothing, publish_one),
    "relink": (publish_one, relink),
    "gc": (publish_one, collect),
    "set aside": (publish_one, set_aside),
}
"""Preparation, which no fault hits, and the job."""
