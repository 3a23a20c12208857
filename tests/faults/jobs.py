"""The jobs that faults are put into: each works in a directory and can be begun again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.build.adopt import adopt_directory
from neuron_artifacts.build.litter import collect_litter, find_litter
from neuron_artifacts.remote import RemoteStore, open_url, pull_artifact, push_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.gc import plan_collection, remove, take_inventory
from tests.artifact.artifacts import make_document, make_manifest, publish
from tests.artifact.neuron_files import make_config, md5_of, write_nxdi


def store_in(directory: Path) -> LocalStore:
    return LocalStore(directory, DigestCache(directory / "digests"))


def publish_one(directory: Path) -> None:
    """Lay an artifact and publish it, unless that was done."""
    if not store_in(directory).path(make_document().key).exists():
        publish(directory)


def relink(directory: Path) -> None:
    """Publish a second artifact out of the files of the first, unless that was done."""
    store = store_in(directory)
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
    """Remove every artifact of the store that nobody holds, and all litter."""
    store = store_in(directory)
    entries, now = take_inventory(store)
    remove(store, plan_collection(entries, now=now, max_size=0).removals)
    collect_litter(store, find_litter(store))


def set_aside(directory: Path) -> None:
    """Move an artifact that was found broken out of the way, and publish it anew."""
    store = store_in(directory)
    for path in store.directories():
        store.set_aside(path)
    publish_one(directory)


def write_foreign(directory: Path) -> Path:
    """What NxD Inference compiled for vLLM, written once."""
    source = directory / "foreign" / md5_of(make_config())
    return source if source.exists() else write_nxdi(directory / "foreign")


def adopt(directory: Path) -> None:
    """Take it into the store."""
    adopt_directory(write_foreign(directory), store_in(directory))


def push(directory: Path) -> None:
    """Give the artifact of the store to a remote one."""
    push_artifact(remote_of(directory), store_in(directory).path(make_document().key))


def push_from_elsewhere(directory: Path) -> None:
    """A remote store that has an artifact, and a local one that has not."""
    publish_one(directory / "elsewhere")
    elsewhere = store_in(directory / "elsewhere").path(make_document().key)
    push_artifact(remote_of(directory), elsewhere)


def pull(directory: Path) -> None:
    """Bring it here."""
    pull_artifact(remote_of(directory), make_document().key, store_in(directory))


def remote_of(directory: Path) -> RemoteStore:
    return open_url((directory / "remote").as_uri())


def nothing(_directory: Path) -> None:
    """No preparation."""


@dataclass(frozen=True)
class Job:
    """Preparation, which no fault hits, the work, and what of it others can see.

    ``visible`` gives a status for each artifact: ``ok``, or what is wrong with it.
    """

    prepare: Callable[[Path], object]
    work: Callable[[Path], None]
    visible: Callable[[Path], list[str]]


def local(directory: Path) -> list[str]:
    return [verify_artifact(p, "full").status for p in store_in(directory).directories()]


def distant(directory: Path) -> list[str]:
    """Whatever a remote store lists can be pulled whole."""
    remote = remote_of(directory)
    place = directory / "looking"
    found = [pull_artifact(remote, key, store_in(place)).path for key in remote.keys()]  # noqa: SIM118
    return [verify_artifact(path, "full").status for path in found]


JOBS = {
    "publish": Job(nothing, publish_one, local),
    "relink": Job(publish_one, relink, local),
    "adopt": Job(write_foreign, adopt, local),
    "gc": Job(publish_one, collect, local),
    "set aside": Job(publish_one, set_aside, local),
    "push": Job(publish_one, push, distant),
    "pull": Job(push_from_elsewhere, pull, local),
}


def litter(directory: Path) -> list[Path]:
    """What lies about after the next run and a collection."""
    store = store_in(directory)
    collect_litter(store, find_litter(store))
    places = [store.root / name for name in (".staging", ".trash", ".incoming")]
    return [path for place in [*places, directory / "remote/.arriving"] for path in place.glob("*")]
