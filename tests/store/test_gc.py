"""What is collected, in which order, and what never is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuron_artifacts.errors import StoreError
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.gc import (
    Entry,
    collect_litter,
    plan_collection,
    remove,
    take_inventory,
)
from neuron_artifacts.store.leases import (
    hold,
    holders,
    is_pinned,
    last_used,
    pin,
    store_time,
    unpin,
)
from neuron_artifacts.store.owner import ABANDONED_SECONDS
from tests.artifact.artifacts import publish
from tests.cli.run import run

DAY = 86400.0
NOW = 1000 * DAY


def entry(name: str, age: float, *inodes: int, **options: object) -> Entry:
    """Every inode holds 10 bytes."""
    files = {(1, inode): 10 for inode in inodes}
    return Entry(Path(name), NOW - age * DAY, files, **options)  # type: ignore[arg-type]


OLD, MIDDLE, NEW = entry("old", 30, 1, 9), entry("middle", 20, 2), entry("new", 10, 3, 9)
PINNED, HELD = entry("pinned", 40, 4, pinned=True), entry("held", 40, 5, holders=("x",))
BROKEN = entry("broken", 1, 6, is_broken=True)


@pytest.mark.parametrize(
    ("entries", "limits", "gone", "freed"),
    [
        ([OLD, NEW, MIDDLE], {}, [], 0),
        ([OLD, NEW, MIDDLE], {"max_size": 30}, ["old"], 10),
        ([OLD, NEW, MIDDLE], {"max_size": 29}, ["old", "middle"], 20),
        ([OLD, NEW, MIDDLE], {"max_size": 0}, ["old", "middle", "new"], 40),
        ([OLD, NEW, MIDDLE], {"max_size": 0, "keep": 2}, ["old"], 10),
        ([OLD, NEW, MIDDLE], {"older_than": 15 * DAY}, ["old", "middle"], 20),
        ([OLD, NEW, MIDDLE], {"older_than": 15 * DAY, "keep": 3}, [], 0),
        ([OLD, PINNED, HELD], {"older_than": DAY}, ["old"], 20),
        ([OLD, NEW, BROKEN], {"max_size": 39}, ["broken"], 10),
        ([OLD, NEW, BROKEN], {"max_size": 31, "keep": 5}, ["broken"], 10),
    ],
)
def test_the_least_recently_used_go_first(
    entries: list[Entry], limits: dict[str, float], gone: list[str], freed: int
) -> None:
    """``old`` and ``new`` share a file: it is freed when the last of them goes."""
    plan = plan_collection(entries, now=NOW, **limits)  # type: ignore[arg-type]
    assert [str(removal.entry.path) for removal in plan.removals] == gone
    assert plan.freed == freed
    assert plan.size == 10 * len({inode for e in entries for inode in e.inodes})
    protected = {str(e.path) for e in plan.protected}
    assert protected <= {"pinned", "held"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    for number in range(3):
        publish(tmp_path, number=number)
    return LocalStore(tmp_path)


def plan_all(store: LocalStore):  # type: ignore[no-untyped-def]
    entries, now = take_inventory(store)
    return plan_collection(entries, now=now, max_size=0)


def test_collecting_removes_and_says_what_it_freed(store: LocalStore) -> None:
    used = sum(
        size for e in take_inventory(store)[0] for size in e.inodes.values()
    )  # fmt: skip
    plan = plan_all(store)
    assert plan.freed == plan.size == used > 0
    assert len(remove(store, plan.removals)) == 3
    assert store.directories() == []
    assert list((store.root / ".trash").iterdir()) == []


def test_a_file_that_lies_elsewhere_too_frees_nothing(store: LocalStore, tmp_path: Path) -> None:
    before = plan_all(store).freed
    first = store.directories()[0]
    size = (first / "config.json").stat().st_blocks * 512
    os.link(first / "config.json", tmp_path / "elsewhere")
    assert plan_all(store).freed == before - size


def test_pins_and_leases_protect(store: LocalStore) -> None:
    pinned, held, free = store.directories()
    pin(pinned)
    with hold(held):
        assert len(holders(held, store_time(store.root))) == 1
        assert [r.entry.path for r in remove(store, plan_all(store).removals)] == [free]
    assert holders(held, store_time(store.root)) == ()
    assert unpin(pinned)
    assert not unpin(pinned)
    assert len(remove(store, plan_all(store).removals)) == 2


def test_a_lease_that_appears_after_the_plan_brings_the_artifact_back(store: LocalStore) -> None:
    removals = plan_all(store).removals
    with hold(removals[0].entry.path):
        removed = remove(store, removals)
    assert len(removed) == 2
    assert store.directories() == [removals[0].entry.path]


def test_a_lease_that_appears_during_the_move_brings_it_back(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuron_artifacts.store import gc, staging

    rename = staging.rename_without_replacing
    path = plan_all(store).removals[0].entry.path
    holding: list[Path] = []

    def move(source: Path, target: Path) -> bool:
        moved = rename(source, target)
        if source == path and not holding:
            folder = path.parent / ".leases" / path.name
            folder.mkdir(parents=True)
            with hold(store.directories()[0]):  # any lease of a living process, moved to this one
                (lease,) = (path.parent / ".leases" / store.directories()[0].name).iterdir()
                holding.append(folder / lease.name)
                holding[0].touch()
        return moved

    monkeypatch.setattr(gc, "rename_without_replacing", move)
    removed = {removal.entry.path for removal in remove(store, plan_all(store).removals)}
    assert path not in removed
    assert path.is_dir()


def test_leases_of_the_dead_do_not_count(store: LocalStore) -> None:
    path = store.directories()[0]
    code = (
        "import os, sys, pathlib\nfrom neuron_artifacts.store.leases import hold\n"
        "with hold(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    assert len(holders(path, store_time(store.root))) == 1
    process.kill()
    process.communicate()
    assert holders(path, store_time(store.root)) == ()
    collect_litter(store)
    assert not list((store.root / ".leases").rglob("*-*"))


@pytest.mark.parametrize(("age", "counts"), [(60.0, True), (ABANDONED_SECONDS * 2, False)])
def test_another_hosts_lease_counts_while_it_is_renewed(
    store: LocalStore, age: float, counts: bool
) -> None:
    path = store.directories()[0]
    folder = store.root / ".leases" / path.name
    folder.mkdir(parents=True)
    lease = folder / "00000000-11111111-22222222-77-88-abcd"
    lease.touch()
    stamp = time.time() - age
    os.utime(lease, (stamp, stamp))
    assert bool(holders(path, store_time(store.root))) == counts
    collect_litter(store)
    assert lease.exists() == counts


def test_a_lease_through_a_link_counts(store: LocalStore, tmp_path: Path) -> None:
    """``serve --artifacts current`` holds the artifact that ``current`` leads to."""
    artifact = store.directories()[0]
    for number, place in enumerate((tmp_path, store.root)):
        current = place / "current"
        current.symlink_to(artifact)
        with hold(current):
            assert len(holders(artifact, store_time(store.root))) == 1, number
            assert artifact not in [r.entry.path for r in plan_all(store).removals]
    assert not holders(artifact, store_time(store.root))


def test_what_somebody_else_put_into_the_store_is_not_collected(
    store: LocalStore, tmp_path: Path
) -> None:
    """vLLM's own directories have an MD5 for a name and no manifest; links lead anywhere."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_bytes(b"x")
    links = {"elsewhere": mine, "dangling": tmp_path / "nowhere", "loop": store.root / "loop",
             "another-name": store.directories()[0]}  # fmt: skip
    for name, target in links.items():
        (store.root / name).symlink_to(target)
    foreign = store.root / ("a" * 32)
    foreign.mkdir()
    (foreign / "model.pt").write_bytes(b"x" * 10000)
    broken = store.root / ("b" * 64)
    broken.mkdir()
    (broken / "config.json").write_bytes(b"x")
    gone = remove(store, plan_all(store).removals)
    assert {broken} < {removal.entry.path for removal in gone}
    assert len(gone) == 4
    collect_litter(store)
    assert {path.name for path in store.root.iterdir() if path.name[0] != "."} == {
        *links, foreign.name,
    }  # fmt: skip
    assert (mine / "file").exists()
    assert list((store.root / ".trash").iterdir()) == []


@pytest.mark.parametrize("place", [".leases", ".pins"])
def test_who_cannot_know_whether_somebody_reads_removes_nothing(
    place: str, store: LocalStore
) -> None:
    removals = plan_all(store).removals
    (store.root / place).write_text("a file where a folder should be")
    with pytest.raises(StoreError):
        take_inventory(store)
    with pytest.raises(StoreError):
        remove(store, removals)
    assert len(store.directories()) == 3


def test_use_is_remembered_and_forgotten_with_the_artifact(store: LocalStore) -> None:
    path = store.directories()[0]
    os.utime(path, (1, 1))
    assert last_used(path) == 1
    with hold(path):
        pass
    assert last_used(path) > 1
    remove(store, plan_all(store).removals)
    collect_litter(store)
    assert list((store.root / ".used").iterdir()) == []


def test_outside_a_store_nothing_is_written(tmp_path: Path) -> None:
    path = publish(tmp_path, tmp_path / "mine")
    before = sorted(tmp_path.iterdir())
    with hold(path):
        assert sorted(tmp_path.iterdir()) == before


def test_gc_says_what_it_would_free_before_it_frees_it(store: LocalStore, tmp_path: Path) -> None:
    kept = store.directories()[1]
    assert run("pin", kept.name[:20], cwd=tmp_path).code == 0
    assert is_pinned(kept)
    dry = run("gc", "--max-size", "0", "--dry-run", "--json", cwd=tmp_path)
    assert dry.code == 0
    assert dry.data["freed"] == 0
    assert dry.data["would_free"] > 0
    assert dry.err.count("would remove") == 2
    assert f"{kept.name[:16]} is pinned" in dry.err
    assert len(store.directories()) == 3
    wet = run("gc", "--max-size", "0", "--json", cwd=tmp_path)
    assert wet.data["freed"] == dry.data["would_free"]
    assert store.directories() == [kept]
    assert run("unpin", kept.name, cwd=tmp_path).code == 0
    assert run("gc", "--older-than", "1d", cwd=tmp_path).code == 0
    assert store.directories() == [kept]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["gc", "--max-size", "lots"], 2),
        (["gc", "--older-than", "soon"], 2),
        (["pin", "zz"], 3),
    ],
)
def test_bad_input(arguments: list[str], code: int, store: LocalStore, tmp_path: Path) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.code == code, result.err
    assert len(result.err.strip().splitlines()) <= 2


def test_without_a_store_there_is_nothing_to_do(tmp_path: Path) -> None:
    result = run("gc", "--json", cwd=tmp_path)
    assert result.code == 0
    assert json.loads(result.out)["removals"] == []
