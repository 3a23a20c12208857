from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.owner import Owner, is_abandoned, is_alive
from tests.artifact.artifacts import publish


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, DigestCache(tmp_path / "digests"))


def test_a_directory_of_the_right_name_is_the_store_itself(tmp_path: Path) -> None:
    name = "neuron-compiled-artifacts"
    assert LocalStore(tmp_path).root == tmp_path / name
    assert LocalStore(tmp_path / name).root == tmp_path / name


def test_lists_artifacts_and_nothing_else(store: LocalStore, tmp_path: Path) -> None:
    assert store.directories() == []
    path = publish(tmp_path, a=1)
    other = publish(tmp_path, a=2)
    (store.root / "half").mkdir()
    assert {p for p, _ in store.manifests()} == {path, other}
    assert set(store.directories()) == {path, other, store.root / "half"}


def test_setting_aside_keeps_everything(store: LocalStore, tmp_path: Path) -> None:
    path = publish(tmp_path)
    content = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    aside = store.set_aside(path)
    assert not path.exists()
    assert {
        p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()
    } == content
    assert store.directories() == []
    assert store.set_aside(publish(tmp_path)) != aside, "a second one gets a name of its own"


def leave_litter(store: LocalStore, owner: Owner | None) -> Path:
    name = f"litter-{owner.token if owner else 'nobody'}-{time.monotonic_ns()}"
    path = store.root / ".staging" / name
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x")
    return path


def dead_owner() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(Owner.current(), pid=process.pid, started=12345)


def test_only_what_the_dead_left_is_collected(store: LocalStore) -> None:
    me = Owner.current()
    living = leave_litter(store, me)
    dead = leave_litter(store, dead_owner())
    rebooted = leave_litter(store, replace(me, boot="0" * 8))
    recycled = leave_litter(store, replace(me, started=1))
    foreign = leave_litter(store, replace(me, host="0" * 8))
    nameless = leave_litter(store, None)
    assert set(store.collect_abandoned()) == {dead, rebooted, recycled}
    assert {p for p in (living, foreign, nameless) if p.exists()} == {living, foreign, nameless}


@pytest.mark.parametrize("days", [-4, 4])
def test_another_hosts_litter_is_judged_by_time_whichever_way_the_clock_jumped(
    store: LocalStore, days: int
) -> None:
    foreign = leave_litter(store, replace(Owner.current(), host="0" * 8))
    assert not is_abandoned(foreign)
    assert not is_abandoned(foreign, now=time.time() + days / abs(days) * 86400 * 1.5)
    assert is_abandoned(foreign, now=time.time() + days * 86400)


def test_the_second_builder_waits_and_is_told_for_whom(store: LocalStore) -> None:
    inside, done = threading.Event(), threading.Event()

    def first() -> None:
        with store.building("0" * 64, lambda *_: None):
            inside.set()
            done.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(30)
    seen: list[str] = []

    def on_wait(holder: str, seconds: float) -> None:
        seen.append(holder)
        done.set()

    with store.building("0" * 64, on_wait):
        assert not thread.is_alive() or done.is_set()
    thread.join()
    assert seen[0] == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_killed_holder_blocks_nobody(store: LocalStore) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from neuron_artifacts.store import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).building('0' * 64, lambda *_: None):\n"
        "    print('in', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.wait()
    waits: list[float] = []
    with store.building("0" * 64, lambda _holder, seconds: waits.append(seconds)):
        pass
    assert len(waits) <= 1


@pytest.mark.parametrize("broken", ["place", "lock", "release"])
def test_a_lock_that_does_not_work_stops_nobody(
    broken: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.root.mkdir()
    if broken == "place":
        (store.root / ".locks").write_text("a file where a folder should be")
    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if (how == fcntl.LOCK_UN) == (broken == "release"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    done = []
    with store.building("0" * 64, lambda *_: None):
        done.append(broken)
    assert done


def test_a_clone_of_this_machine_is_another_one() -> None:
    """Names repeat: another boot on a host of the same name may be another machine."""
    me = Owner.current()
    assert is_alive(me) is True
    assert is_alive(replace(me, host="0" * 8)) is None
    assert is_alive(replace(me, boot="0" * 8)) is False


def test_owner_reads_back() -> None:
    owner = Owner.current()
    assert Owner.parse(f"label-{owner.token}-abcd") == owner
    assert owner.started > 0
    assert Owner.parse("label-abcd") is None
