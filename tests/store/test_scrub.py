"""A scrub reads every byte, survives being killed, and repeats only what it must."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuron_artifacts.remote import open_url, push_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.leases import holders, last_used, store_time
from neuron_artifacts.store.scrub import scrub
from tests.artifact.artifacts import publish
from tests.cli.run import run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    for number in range(4):
        publish(tmp_path, number=number)
    return LocalStore(tmp_path)


def flip(path: Path) -> None:
    """Change a bit as a disk does: size and mtime stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_bit_is_found_under_an_unchanged_mtime(store: LocalStore, tmp_path: Path) -> None:
    bad = store.directories()[2]
    flip(bad / "graphs/a.so")
    found = {r.path: r for r in scrub(store.directories(), jobs=3, checkpoint=tmp_path / "c")}
    assert {path for path, r in found.items() if r.status != "ok"} == {bad}
    assert found[bad].problems == ("graphs/a.so has other bytes than were written",)
    assert not (tmp_path / "c").exists()


def test_an_unfinished_run_is_continued(store: LocalStore, tmp_path: Path) -> None:
    paths, checkpoint = store.directories(), tmp_path / "c"
    running = scrub(paths, jobs=1, checkpoint=checkpoint)
    first = [next(running), next(running)]
    running.close()
    with checkpoint.open("a") as file:
        file.write('{"path": "half a li')
    second = list(scrub(paths, jobs=1, checkpoint=checkpoint))
    assert {r.path for r in second if r.resumed} >= {r.path for r in first}
    assert {r.path for r in second} == set(paths)
    assert not any(r.resumed for r in scrub(paths, jobs=1, checkpoint=checkpoint))


def test_what_changed_or_was_bad_is_read_again(store: LocalStore, tmp_path: Path) -> None:
    paths, checkpoint = store.directories(), tmp_path / "c"
    flip(paths[0] / "config.json")
    running = scrub(paths, jobs=1, checkpoint=checkpoint)
    for _ in range(3):
        next(running)
    running.close()
    flip(paths[1] / "artifact.json")
    results = {r.path: r for r in scrub(paths, jobs=1, checkpoint=checkpoint)}
    assert not results[paths[0]].resumed
    assert not results[paths[1]].resumed
    assert results[paths[1]].status == "corrupt"


def test_what_is_verified_or_pushed_is_held_and_not_used(store: LocalStore, tmp_path: Path) -> None:
    """A collector leaves alone what is being read; to be checked is no reason to be kept."""
    (path, *_) = store.directories()
    os.utime(path, (1, 1))
    seen: list[int] = []

    def look(_: object) -> None:
        seen.append(len(holders(path, store_time(store.root))))

    list(scrub([path], jobs=1, checkpoint=tmp_path / "c", on_bytes=look))
    push_artifact(open_url((tmp_path / "remote").as_uri()), path, observe=look)
    assert len(seen) > 1
    assert set(seen) == {1}
    assert not holders(path, store_time(store.root))
    assert last_used(path) == 1


def test_the_command_ends_with_the_worst_verdict(store: LocalStore, tmp_path: Path) -> None:
    assert run("verify", "--all", cwd=tmp_path).code == 0
    bad = store.directories()[0]
    flip(bad / "weights/model.safetensors")
    result = run("verify", "--all", "--json", cwd=tmp_path)
    assert result.code == 5
    assert [row["status"] for row in result.data["artifacts"]].count("corrupt") == 1
    assert result.data["bytes_read"] > 0
    assert run("verify", bad.name[:20], cwd=tmp_path).code == 5
    assert run("verify", store.directories()[1].name, cwd=tmp_path).code == 0
    assert run("verify", cwd=tmp_path).code == 2
    assert run("verify", "zz", cwd=tmp_path).code == 3
