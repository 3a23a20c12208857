"""The command line killed at random moments: what shows is whole, and the next run succeeds."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.remote import open_url, pull_artifact
from neuron_artifacts.store import LocalStore
from tests.artifact.neuron_files import write_nxdi
from tests.cli.run import TOOL, run
from tests.faults.conftest import RUNS, Record
from tests.faults.jobs import litter
from tests.models import SMALL, copy_model

FLAGS = [str(t) for name, value in SMALL.items() for t in (f"--{name.replace('_', '-')}", value)]
COMPILE = ["compile", "model", *FLAGS]
KILLS = 6


def nothing(_place: Path) -> None:
    """What the command needs is there from the beginning."""


def refill(place: Path) -> None:
    """A store that has the artifact, and perhaps rubbish of earlier tries."""
    artifact = next((place / "built").iterdir())
    target = LocalStore(place).path(artifact.name)
    if not target.exists():
        shutil.copytree(artifact, target)


def damage(place: Path) -> None:
    refill(place)
    (path,) = LocalStore(place).directories()
    weights = path / "weights/model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def empty(place: Path) -> None:
    for path in LocalStore(place).directories():
        shutil.rmtree(path)


def fill_remote(place: Path) -> None:
    if not (place / "remote").exists():
        refill(place)
        assert run("push", *keys(place), "--to", remote(place), cwd=place).code == 0
    empty(place)


def empty_remote(place: Path) -> None:
    refill(place)
    shutil.rmtree(place / "remote", ignore_errors=True)


def write_foreign(place: Path) -> None:
    empty(place)
    if not (place / "foreign").exists():
        write_nxdi(place / "foreign")


def keys(place: Path) -> list[str]:
    return [path.name for path in (place / "built").iterdir()]


def remote(place: Path) -> str:
    return (place / "remote").as_uri()


Prepare = Callable[[Path], None]
CASES: dict[str, tuple[Prepare, Callable[[Path], list[str]]]] = {
    "compile": (nothing, lambda place: [*COMPILE, "--force"]),
    "gc": (refill, lambda place: ["gc", "--max-size", "0"]),
    "repair": (damage, lambda place: ["repair", "--all"]),
    "adopt": (write_foreign, lambda place: ["adopt", str(next((place / "foreign").iterdir()))]),
    "push": (empty_remote, lambda place: ["push", *keys(place), "--to", remote(place)]),
    "pull": (fill_remote, lambda place: ["pull", *keys(place), "--from", remote(place)]),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built")
    copy_model(place / "model")
    assert run(*COMPILE, cwd=place).code == 0
    LocalStore(place).directories()[0].parent.rename(place / "built")
    for path in (place / "built").glob(".*"):
        shutil.rmtree(path)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("command", CASES)
def test_killed_at_random_moments(
    command: str, built: Path, tmp_path: Path, rng: random.Random, record: Record
) -> None:
    place = tmp_path / "place"
    shutil.copytree(built, place)
    prepare, words = CASES[command]
    prepare(place)
    began = time.monotonic()
    assert run(*words(place), cwd=place).code == 0
    seconds = time.monotonic() - began
    for _ in range(KILLS * RUNS):
        prepare(place)
        damaged = command == "repair"
        process = subprocess.Popen(
            [*TOOL, *words(place)], cwd=place, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(rng.uniform(0.05, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = {verify_artifact(p, "full").status for p in LocalStore(place).directories()}
        assert found <= ({"ok", "corrupt"} if damaged else {"ok"})
        if (place / "remote").exists():
            there = open_url(remote(place))
            for key in there.keys():  # noqa: SIM118 - a store, no mapping
                pull_artifact(there, key, LocalStore(place / "looking"))
        record(f"SIGKILL at a random moment of {command}", "whole or not there")
    prepare(place)
    again = run(*words(place), cwd=place)
    assert again.code == 0, again.err
    # A compiler whose builder died a moment ago may still be writing.
    deadline = time.monotonic() + 60
    while _processes_below(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _processes_below(place) == [], "a killed builder takes its compilers along"
    assert litter(place) == []


def _processes_below(place: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(entry.readlink()).startswith(str(place)):
                found.append(entry.parent.name)
        except OSError:
            continue
    return [pid for pid in found if pid != str(os.getpid())]
