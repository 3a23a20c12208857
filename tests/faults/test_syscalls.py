"""Somebody else's fault injection: one system call of one command fails, kills or does half.

A sample runs in every test run, drawn with the printed seed; the marked sweep tries every call.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from tests.artifact.neuron_files import write_nxdi
from tests.cli.run import Result, run
from tests.faults.conftest import RUNS, Record
from tests.faults.syscalls import Fault, Outcome, find_calls, reason_to_skip, run_with
from tests.models import change_weights, copy_model

FLAGS = (
    "--seq-len", "16", "--context-encoding-buckets", "16", "--token-generation-buckets", "16",
    "--skip-preflight",
)  # fmt: skip
SAMPLE = 1
"""Faults of each command in a quick run; each is four processes."""

READ = ("error=EIO", "error=EACCES", "error=EMFILE", "error=ESTALE")
CHANGE = ("error=ENOSPC", "error=EIO", "error=EROFS", "error=EACCES", "signal=SIGKILL")
ANSWERS: dict[str, tuple[str, ...]] = {
    "openat": (*READ, "error=ENOSPC", "error=EROFS", "error=ENOMEM"),
    "read": (*READ[:2], "error=EINTR"),
    "pread64": READ[:1],
    "getdents64": READ[:2],
    "newfstatat": READ[:2],
    "statx": READ[:2],
    "fstat": READ[:1],
    "mmap": ("error=ENOMEM", "error=ENODEV"),
    "write": (*CHANGE, "error=EINTR", "retval=1"),
    "pwrite64": (*CHANGE, "retval=1"),
    "copy_file_range": ("error=EIO", "error=EXDEV"),
    "sendfile": ("error=EIO", "error=EINVAL"),
    "fsync": ("error=EIO", "error=ENOSPC", "error=EINTR", "signal=SIGKILL"),
    "rename": (*CHANGE, "error=ENOENT"),
    "renameat2": (*CHANGE, "error=ENOENT", "error=EINVAL"),
    "link": (*CHANGE, "error=EMLINK", "error=EPERM"),
    "unlink": ("error=EIO", "error=EROFS", "signal=SIGKILL"),
    "unlinkat": ("error=EIO", "signal=SIGKILL"),
    "mkdir": (*CHANGE, "error=EMLINK"),
    "rmdir": ("error=EIO", "error=EBUSY"),
    "chmod": ("error=EPERM", "error=EIO"),
    "ftruncate": ("error=EIO",),
    "flock": ("error=ENOLCK", "error=EINTR", "error=EIO"),
    "fcntl": ("error=EIO",),
    "ioctl": ("error=EIO", "error=EOPNOTSUPP"),
    "utimensat": ("error=EROFS", "error=EACCES"),
    "lseek": ("error=EIO",),
}


@pytest.fixture(autouse=True)
def _needs_strace() -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)


class Place:
    """A folder with models, a store, a remote store, an export and a foreign directory.

    It is laid once and copied back before every fault.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._whole, self.log = folder / "place", folder / "whole", folder / "log"
        self.store = LocalStore(self.path)
        self.cache = self.path / "cache"
        copy_model(self.path / "model")
        change_weights(copy_model(self.path / "tuned"))
        write_nxdi(self.path / "foreign")
        self.succeed("compile", self.path / "model", *FLAGS, "--store", self.path)
        (self.artifact,) = self.store.directories()
        self.succeed("export", self.artifact, self.path / "one.tar")
        self.succeed("push", self.artifact, "--to", self.remote)
        self.succeed("keygen", self.path / "signer")
        shutil.copytree(self.path, self._whole, symlinks=True)

    @property
    def remote(self) -> str:
        return (self.path / "remote").as_uri()

    @property
    def environ(self) -> dict[str, str]:
        return {"NEURON_ARTIFACTS_CACHE": str(self.cache), "HF_HUB_OFFLINE": "1"}

    def run(self, *words: object) -> Result:
        return run(*words, cwd=Path("/"), **self.environ)

    def succeed(self, *words: object) -> None:
        done = self.run(*words)
        assert done.code == 0, done.err

    def reset(self, *without: str) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(self._whole, self.path, symlinks=True)
        for name in without:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def damage(self) -> None:
        self.reset()
        weights = self.artifact / "weights/model.safetensors"
        data = weights.read_bytes()
        weights.unlink()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    def lies(self) -> list[Path]:
        """Files of which the digest cache says something wrong."""
        inodes: dict[str, list[Path]] = {}
        for path in self.path.rglob("*"):
            if path.is_file():
                status = path.stat()
                name = f"{status.st_dev:x}-{status.st_ino:x}.json"
                inodes.setdefault(name, []).append(path)
        found = []
        for entry in (self.cache / "digests").glob("[!.]*.json"):
            try:
                record = json.loads(entry.read_bytes())
            except ValueError:  # the disk lost a part of it; a damaged entry says nothing
                continue
            for path in inodes.get(entry.name, ()):
                status = path.stat()
                same = (status.st_size, status.st_mtime_ns) == (record["size"], record["mtime_ns"])
                if same and hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
                    found.append(path)
        return found

    def litter(self) -> list[Path]:
        """What a collection leaves of temporaries, once those of the dead are old."""
        for path in self.path.rglob(".*"):
            if path.is_file():
                os.utime(path, (1, 1))
        if self.store.root.is_dir():
            self.succeed("gc", "--store", self.path)
        places = [self.store.root / name for name in (".staging", ".trash", ".incoming")]
        found = [p for place in [*places, self.path / "remote/.arriving"] for p in place.glob("*")]
        return [*found, *self.store.root.glob(".clock-*"), *self.path.glob(".*")]


@dataclass(frozen=True)
class Command:
    """How the place is prepared, the words, and what may become of the artifact that was there."""

    prepare: Callable[[Place], None]
    words: Callable[[Place], list[object]]
    takes_away: bool = False
    """Removes it, or finds none."""


def _in_store(*words: object) -> Callable[[Place], list[object]]:
    return lambda place: [*words, "--store", place.path]


STORE = "neuron-compiled-artifacts"
COMMANDS = {
    "compile": Command(
        lambda place: place.reset(STORE),
        lambda place: ["compile", place.path / "model", *FLAGS, "--store", place.path],
        takes_away=True,
    ),
    "relink": Command(
        Place.reset, lambda place: ["compile", place.path / "tuned", *FLAGS, "--store", place.path]
    ),
    "hit": Command(
        Place.reset, lambda place: ["compile", place.path / "model", *FLAGS, "--store", place.path]
    ),
    "pull": Command(
        lambda place: place.reset(STORE),
        lambda place: [
            "pull", place.artifact.name, "--from", place.remote, "--store", place.path
        ],
        takes_away=True,
    ),
    "push": Command(
        lambda place: place.reset("remote"),
        lambda place: ["push", place.artifact, "--to", place.remote],
    ),
    "export": Command(
        lambda place: place.reset("one.tar"),
        lambda place: ["export", place.artifact, place.path / "one.tar"],
    ),
    "import": Command(
        lambda place: place.reset(STORE),
        lambda place: ["import", place.path / "one.tar", "--store", place.path],
        takes_away=True,
    ),
    "adopt": Command(
        Place.reset,
        lambda place: [
            "adopt", next((place.path / "foreign").iterdir()), "--store", place.path
        ],
    ),
    "gc": Command(Place.reset, _in_store("gc", "--max-size", "0"), takes_away=True),
    "gc --dry-run": Command(Place.reset, _in_store("gc", "--max-size", "0", "--dry-run")),
    "verify": Command(Place.reset, _in_store("verify", "--all")),
    "repair": Command(Place.damage, _in_store("repair", "--all"), takes_away=True),
    "repair of what is sound": Command(Place.reset, _in_store("repair", "--all")),
    "pin": Command(
        Place.reset, lambda place: ["pin", place.artifact.name, "--store", place.path]
    ),
    "sign": Command(
        Place.reset, lambda place: ["sign", place.artifact, "--key", place.path / "signer.key"]
    ),
    "cache-lookup": Command(
        Place.reset,
        lambda place: ["cache-lookup", place.path / "model", *FLAGS[:-1], "--store", place.path],
    ),
    "validate": Command(
        Place.reset,
        lambda place: ["validate", "--full", place.artifact],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    if reason := reason_to_skip():
        pytest.skip(reason)
    return Place(tmp_path_factory.mktemp("syscalls"))


def candidates(name: str, place: Place) -> list[Fault]:
    """Every fault of every call of a command that touches the place."""
    command = COMMANDS[name]
    command.prepare(place)
    calls = find_calls(command.words(place), place.path, place.log, place.environ)
    return [
        Fault(call, number, answer)
        for call, numbers in sorted(calls.items())
        for number in numbers
        for answer in ANSWERS.get(call, ("error=EIO",))
    ]


def suffer(name: str, fault: Fault, place: Place, record: Record) -> bool:
    """Run a command with a fault and see that nothing is lost; whether the fault was met."""
    command = COMMANDS[name]
    command.prepare(place)
    outcome = run_with(fault, command.words(place), place.path, place.log, place.environ)
    if not outcome.hit:
        return False
    where = f"{name}, {fault}: {outcome.hit}\n{outcome.out}{outcome.err}"
    check_answer(name, outcome, where)
    if name != "repair":
        check_store(place, where)
        assert not list((place.store.root / ".set-aside").glob("*")), where
    if not command.takes_away:
        assert place.artifact.is_dir(), where
    again = place.run(*command.words(place))
    assert again.code == 0, f"{where}\nthe next run: {again.out}{again.err}"
    check_store(place, where)
    assert place.litter() == [], where
    what = (
        "killed" if outcome.code < 0 else "done all the same" if outcome.code == 0 else "an error"
    )
    kind = fault.answer.partition("=")[2] if not fault.answer.startswith("retval") else "lost bytes"
    record(f"{kind} of a system call in {name}", f"{what}, nothing lost, the next run succeeds")
    return True


def check_answer(name: str, outcome: Outcome, where: str) -> None:
    """A documented code, which accuses nobody of damage, and words that help."""
    assert outcome.code in (0, 1, 2, 7, -9, *((5,) if name == "repair" else ())), where
    assert "Traceback" not in outcome.err, where
    assert "this is a bug" not in outcome.err, where
    if outcome.code > 0 and name not in ("verify", "repair", "repair of what is sound", "validate"):
        assert "error:" in outcome.err, where
        assert "tip:" in outcome.err, where


def check_store(place: Place, where: str) -> None:
    for path in place.store.directories():
        verdict = verify_artifact(path, "full")
        assert verdict.status == "ok", f"{where}\n{verdict.problems}"
    assert place.lies() == [], where


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sample_of_faults(name: str, place: Place, record: Record) -> None:
    """The same ones each time, unless ``FAULT_SEED`` asks for others."""
    faults = candidates(name, place)
    random.Random(f"{os.environ.get('FAULT_SEED', 0)} {name}").shuffle(faults)
    met = 0
    for fault in faults:
        met += suffer(name, fault, place, record)
        if met == SAMPLE * RUNS:
            break
    assert met


@pytest.mark.slow
@pytest.mark.skipif(
    "FAULT_SWEEP" not in os.environ, reason="thousands of processes, hours: FAULT_SWEEP asks for it"
)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_call_fails_once(name: str, place: Place, rng: random.Random, record: Record) -> None:
    """With one answer for each call of a command, drawn anew in each run."""
    answers: dict[tuple[str, int], list[Fault]] = {}
    for fault in candidates(name, place):
        answers.setdefault((fault.call, fault.when), []).append(fault)
    met = [suffer(name, rng.choice(choices), place, record) for choices in answers.values()]
    assert sum(met) > len(met) // 2, "most calls come again as they came first"
