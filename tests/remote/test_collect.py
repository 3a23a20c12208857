"""Collecting in a remote store: orphans go, and nothing that anybody names or is about to name."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.errors import CorruptError, RefusedError
from neuron_artifacts.events import Event, Note
from neuron_artifacts.remote import collect, collect_remote, pull_artifact, push_artifact
from neuron_artifacts.remote.collect import COLLECTING, PUSHING, announced, plan_collection
from neuron_artifacts.remote.objects import ARTIFACTS, BLOBS, CasStore, Listed
from neuron_artifacts.remote.port import Blob
from tests.cli.run import run
from tests.remote.conftest import Place
from tests.remote.samples import local_store, make_artifact

OBJECTS = ["file", "s3"]
ANY_AGE = -3600.0
"""A grace that every blob has outlived, whatever the store's clock."""


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "_POLL_SECONDS", 0.01)


def lay_blobs(store: CasStore, artifact: Path) -> list[str]:
    """What a push that was killed leaves: files, and no manifest."""
    blobs = []
    for path in sorted(artifact.rglob("*.safetensors")):
        digest = _digest_of(artifact, path)
        store.write(Blob(path, path.stat().st_size, digest), lambda _: None)
        blobs.append(digest)
    return blobs


def _digest_of(artifact: Path, path: Path) -> str:
    verdict = verify_artifact(artifact)
    assert verdict.manifest
    name = path.relative_to(artifact).as_posix()
    return next(file.sha256 for file in verdict.manifest.files if file.path == name)


def cas(place: Place) -> CasStore:
    store = place.store
    assert isinstance(store, CasStore)
    return store


def names(store: CasStore, folder: str) -> list[str]:
    return sorted(listed.name.removeprefix(folder) for listed in store.objects.list(folder))


@pytest.mark.parametrize(
    ("ages", "named", "grace", "expected"),
    [
        ({"a": 10, "b": 20}, set(), 5, ["b", "a"]),
        ({"a": 10, "b": 20}, set(), 10, ["b"]),
        ({"a": 10, "b": 20}, {"b"}, 5, ["a"]),
        ({"a": 10, "b": 20}, {"a", "b", "c"}, 0, []),
        ({}, {"a"}, 0, []),
    ],
)
def test_what_is_an_orphan(
    ages: dict[str, int], named: set[str], grace: float, expected: list[str]
) -> None:
    blobs = [Listed(f"{BLOBS}{name}", 1, 1000.0 - age) for name, age in ages.items()]
    plan = plan_collection(blobs, named, now=1000.0, grace=grace)
    assert [blob.name.removeprefix(BLOBS) for blob in plan] == expected


@pytest.mark.parametrize("place", OBJECTS, indirect=True)
def test_orphans_go_and_artifacts_stay(place: Place, tmp_path: Path) -> None:
    artifact, left = make_artifact(tmp_path / "a"), make_artifact(tmp_path / "b", seed=1)
    store = cas(place)
    push_artifact(store, artifact)
    kept = names(store, BLOBS)
    orphans = sorted(lay_blobs(store, left))
    assert collect_remote(store).orphans == ()  # too young
    said: list[Listed] = []
    dry = collect_remote(store, grace=ANY_AGE, dry_run=True, announce=said.extend)
    assert sorted(orphan.name.removeprefix(BLOBS) for orphan in said) == orphans
    assert (dry.removed, dry.orphan_bytes) == (0, sum(orphan.size for orphan in said))
    assert names(store, BLOBS) == sorted([*kept, *orphans])
    assert collect_remote(store, grace=ANY_AGE).removed == len(orphans)
    assert names(store, BLOBS) == kept
    assert names(store, PUSHING) == names(store, COLLECTING) == []
    pulled = pull_artifact(store, artifact.name, local_store(tmp_path / "c"))
    assert verify_artifact(pulled.path, "full").status == "ok"


@pytest.mark.parametrize("place", OBJECTS, indirect=True)
def test_what_a_push_is_about_to_name_is_spared(place: Place, tmp_path: Path) -> None:
    store, artifact = cas(place), make_artifact(tmp_path / "a", shards=2)
    first, second = lay_blobs(store, artifact)
    with announced(store, [first]):
        found = collect_remote(store, grace=ANY_AGE)
    assert (found.removed, found.spared) == (1, 1)
    assert names(store, BLOBS) == [first]
    assert second not in names(store, BLOBS)


def test_what_was_published_since_the_first_look_is_spared(tmp_path: Path) -> None:
    store = cas(Place("file", f"file://{tmp_path}/remote"))
    artifact = make_artifact(tmp_path / "a")
    lay_blobs(store, artifact)
    found = collect_remote(store, grace=ANY_AGE, announce=lambda _: push_artifact(store, artifact))
    assert (found.removed, found.spared) == (0, 3)
    pulled = pull_artifact(store, artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_a_push_waits_for_a_collector_and_looks_then(tmp_path: Path) -> None:
    store = cas(Place("file", f"file://{tmp_path}/remote"))
    artifact = make_artifact(tmp_path / "a")
    doomed = lay_blobs(store, artifact)[0]
    data = json.dumps({"digests": [doomed]}).encode()
    store.objects.put(f"{COLLECTING}x.json", iter((data,)), len(data))
    with ThreadPoolExecutor(1) as pool:
        told: list[Event] = []
        pushing = pool.submit(push_artifact, store, artifact, observe=told.append)
        while not told:
            assert not pushing.done()
        assert len(names(store, PUSHING)) == 1
        assert store.keys() == []
        store.objects.delete(f"{BLOBS}{doomed}")
        store.objects.delete(f"{COLLECTING}x.json")
        assert pushing.result().published
    notes = [event.text for event in told if isinstance(event, Note)]
    assert len(notes) == 1
    assert "waiting for a collector" in notes[0]
    pulled = pull_artifact(store, artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_a_collector_that_says_more_meanwhile_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It announces itself with nothing at first: its list comes between a push's two looks."""
    store = cas(Place("file", f"file://{tmp_path}/remote"))
    artifact = make_artifact(tmp_path / "a")
    doomed, name = lay_blobs(store, artifact)[0], f"{COLLECTING}x.json"
    told: list[Event] = []

    def put(*digests: str) -> None:
        data = json.dumps({"digests": digests}).encode()
        store.objects.put(name, iter((data,)), len(data))

    read = store.objects.get

    def get(asked: str, size: int, start: int = 0) -> Iterator[bytes]:
        if asked == name:
            put(doomed)
        yield from read(asked, size, start)
        if asked == name:
            store.objects.delete(name)

    put()
    monkeypatch.setattr(store.objects, "get", get)
    assert push_artifact(store, artifact, observe=told.append).published
    assert any("waiting for a collector" in event.text for event in told if isinstance(event, Note))


def test_the_dead_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, artifact = cas(Place("file", f"file://{tmp_path}/remote")), make_artifact(tmp_path / "a")
    (doomed, *_) = lay_blobs(store, artifact)
    data = json.dumps({"digests": [doomed]}).encode()
    for folder in (COLLECTING, PUSHING):
        store.objects.put(f"{folder}dead.json", iter((data,)), len(data))
    monkeypatch.setattr(collect, "STALE_SECONDS", -1.0)
    monkeypatch.setattr(collect, "PUSH_SECONDS", -1.0)
    with announced(store, [doomed]):
        pass
    assert collect_remote(store, grace=ANY_AGE).removed == 3
    assert names(store, PUSHING) == []


def test_time_that_runs_out_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, artifact = cas(Place("file", f"file://{tmp_path}/remote")), make_artifact(tmp_path / "a")
    blobs = lay_blobs(store, artifact)
    monkeypatch.setattr(collect, "REMOVING_SECONDS", -1.0)
    found = collect_remote(store, grace=ANY_AGE)
    assert (found.removed, found.ran_out) == (0, True)
    assert names(store, BLOBS) == sorted(blobs)


@pytest.mark.parametrize("what", ["a manifest", "a push"])
def test_nothing_goes_while_it_is_unknown_what_is_named(tmp_path: Path, what: str) -> None:
    store, artifact = cas(Place("file", f"file://{tmp_path}/remote")), make_artifact(tmp_path / "a")
    blobs = lay_blobs(store, artifact)
    name = f"artifacts/{'0' * 64}.json" if what == "a manifest" else f"{PUSHING}x.json"
    store.objects.put(name, iter((b"{",)), 1)
    with pytest.raises(CorruptError):
        collect_remote(store, grace=ANY_AGE)
    assert names(store, BLOBS) == sorted(blobs)


def test_collectors_against_pushes(tmp_path: Path) -> None:
    """Whatever is visible after each round is whole, although all of it was an orphan before."""
    store = cas(Place("file", f"file://{tmp_path}/remote"))
    artifacts = [make_artifact(tmp_path / f"a{n}", shards=2, seed=n // 2, n=n) for n in range(3)]
    for number in range(10):
        for name in names(store, ARTIFACTS):
            store.objects.delete(f"{ARTIFACTS}{name}")
        barrier = threading.Barrier(5)

        def collect_now(_: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            collect_remote(store, grace=ANY_AGE)

        def push(artifact: Path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            push_artifact(store, artifact)

        with ThreadPoolExecutor(5) as pool:
            work = [pool.submit(push, artifact) for artifact in artifacts]
            work += [pool.submit(collect_now, n) for n in range(2)]
            for future in work:
                future.result()
        published = store.keys()
        assert sorted(published) == sorted(artifact.name for artifact in artifacts)
        for key in published:
            pulled = pull_artifact(store, key, local_store(tmp_path / f"s{number}"))
            assert verify_artifact(pulled.path, "full").status == "ok"


@pytest.mark.parametrize("place", ["hf", "oci"], indirect=True)
def test_stores_that_collect_themselves(place: Place) -> None:
    with pytest.raises(RefusedError, match="nothing to collect"):
        collect_remote(place.store)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_ARTIFACTS_CONFIG", str(tmp_path / "remotes.yaml"))
    store = cas(Place("file", f"file://{tmp_path}/remote"))
    blobs = lay_blobs(store, make_artifact(tmp_path / "a"))
    assert run("remote", "add", "team", f"file://{tmp_path}/remote").code == 0
    assert run("remote", "gc").out.startswith("removed 0 of 0 orphans")
    told = run("remote", "gc", "team", "--grace", "0s", "--dry-run")
    assert all(f"would remove {BLOBS}{blob}" in told.err for blob in blobs)
    assert told.out.startswith("would remove 3 orphans")
    assert names(store, BLOBS) == sorted(blobs)
    gone = run("remote", "gc", "team", "--grace", "0s", "--json")
    assert (gone.data["removed"], len(gone.data["orphans"])) == (3, 3)
    assert names(store, BLOBS) == []
    assert run("remote", "gc", "team", "--grace", "soon").code == 2
    assert run("remote", "gc", "hf://org/repo").code == 7
