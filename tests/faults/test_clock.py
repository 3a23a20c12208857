"""A clock moved by a day, either way: nobody's work is taken for abandoned, nothing lasts for ever.

The clock is moved by moving what it stamped: a file of an hour ago, met by a clock a day ahead,
looks twenty-five hours old.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.remote.incoming import find_orphans
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.failures import EXPIRES_SECONDS, recall_failure, remember_failure
from neuron_artifacts.store.gc import find_litter, plan_collection, remove, take_inventory
from neuron_artifacts.store.leases import RENEW_SECONDS, hold, mark_used
from neuron_artifacts.store.owner import Owner
from neuron_artifacts.store.scrub import scrub
from tests.artifact.artifacts import publish
from tests.faults.conftest import Record

DAY = 86400.0
FOREIGN = replace(Owner.current(), host="0" * 8)
"""A process of another host, which only time can judge."""

BOTH_WAYS = pytest.mark.parametrize("jump", [-DAY, DAY], ids=["back", "ahead"])


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    publish(tmp_path)
    return LocalStore(tmp_path)


def stamp(path: Path, jump: float, age: float) -> None:
    """As a file of ``age`` seconds looks once the clock has jumped."""
    when = time.time() - age - jump
    os.utime(path, (when, when))


def collected(store: LocalStore, **limits: float) -> int:
    entries, now = take_inventory(store)
    return len(remove(store, plan_collection(entries, now=now, **limits).removals))  # type: ignore[arg-type]


@BOTH_WAYS
def test_leases(jump: float, store: LocalStore, record: Record) -> None:
    """One of this host counts whatever its age; another host's if it was renewed of late."""
    (artifact,) = store.directories()
    with hold(artifact):
        (lease,) = (store.root / ".leases" / artifact.name).iterdir()
        stamp(lease, jump, 100 * DAY)
        assert collected(store, max_size=0) == 0
    foreign = store.root / ".leases" / artifact.name / f"{FOREIGN.token}-1"
    foreign.touch()
    stamp(foreign, jump, RENEW_SECONDS)
    assert collected(store, max_size=0) == 0
    stamp(foreign, jump, 5 * DAY)
    assert collected(store, max_size=0) == 1
    record("clock moved by a day: leases", "the living keep theirs, the dead lose them")


@BOTH_WAYS
def test_work_in_progress(jump: float, store: LocalStore, record: Record) -> None:
    staged = store.root / ".staging" / f"x-{FOREIGN.token}-1"
    staged.mkdir(parents=True)
    arriving = store.root / ".incoming" / f"{'a' * 64}.{FOREIGN.token}-1"
    arriving.parent.mkdir()
    arriving.touch()
    for path in (staged, arriving):
        stamp(path, jump, 3600)
    assert find_litter(store) == {}
    assert find_orphans(store.root) == []
    stamp(staged, jump, 5 * DAY)
    assert list(find_litter(store)) == [staged]
    record("clock moved by a day: work in progress", "left alone; collected once abandoned")


@BOTH_WAYS
def test_ages(jump: float, store: LocalStore, record: Record) -> None:
    """Ages go by the clock that stamped them, the file system's; a jump shows once, in full."""
    (artifact,) = store.directories()
    mark_used(artifact)
    for path in (artifact, store.root / ".used" / artifact.name):
        stamp(path, jump, 0)
    assert collected(store, older_than=1.5 * DAY) == 0
    record("clock moved by a day: gc --older-than", "a day more or less, nothing else")


@BOTH_WAYS
def test_known_failures(jump: float, tmp_path: Path, record: Record) -> None:
    now = time.time()
    assert remember_failure(
        tmp_path, "d", cause="device_memory", message="m", log="", now=now - jump
    )
    assert recall_failure(tmp_path, "d", now=now + 60)
    assert not recall_failure(tmp_path, "d", now=now + EXPIRES_SECONDS + 2 * DAY)
    remember_failure(
        tmp_path, "e", cause="device_memory", message="m", log="", now=now + 4000 * DAY
    )
    assert not recall_failure(tmp_path, "e", now=now), "a clock ten years ahead makes nothing last"
    record("clock moved by a day: known failures", "remembered, and forgotten in time")


@BOTH_WAYS
def test_digests_and_checkpoints(
    jump: float, store: LocalStore, tmp_path: Path, record: Record
) -> None:
    """Digests go by equality of times, never by their order."""
    (artifact,) = store.directories()
    digests = DigestCache(tmp_path / "mine")
    for path in artifact.rglob("*"):
        stamp(path, jump, 3600)
    assert verify_artifact(artifact, "full", digests=digests).status == "ok"
    weights = artifact / "weights/model.safetensors"
    data = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(data[:-1] + b"x")
    stamp(weights, jump, 1800)
    assert verify_artifact(artifact, "full", digests=digests).status == "corrupt"
    (result,) = scrub([artifact], jobs=1, checkpoint=tmp_path / "c")
    assert result.status == "corrupt"
    record("clock moved by a day: digests", "another time is another file")
