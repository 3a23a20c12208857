"""Disks that are full, read-only, foreign or far away, and homes that are not there: for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from tests.cli.run import run
from tests.faults.conftest import Record
from tests.models import copy_model

FLAGS = ["--seq-len", "16", "--context-encoding-buckets", "16", "--token-generation-buckets", "16"]
SIZES = (48, 96, 160, 224, 288, 352, 416)
"""Kilobytes: from too small for a compiler's first file to nearly enough for the artifact."""


class Disk:
    """A tmpfs of our own, whose size and mode can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", self.path],
            check=True, capture_output=True,
        )  # fmt: skip

    def umount(self) -> None:
        subprocess.run(["umount", self.path], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a disk of its own")
    disk = Disk(tmp_path / "disk")
    disk.path.mkdir()
    try:
        disk.mount("size=48k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield disk
    disk.umount()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a store and a remote store that have its artifact."""
    place = tmp_path_factory.mktemp("built")
    copy_model(place / "model")
    assert run("compile", "model", *FLAGS, cwd=place).code == 0
    (path,) = LocalStore(place).directories()
    assert run("push", path, "--to", (place / "remote").as_uri(), cwd=place).code == 0
    return place


@pytest.mark.parametrize("command", ["compile", "pull"])
def test_a_full_disk(command: str, disk: Disk, built: Path, record: Record) -> None:
    (artifact,) = LocalStore(built).directories()
    words = {
        "compile": ["compile", "model", *FLAGS, "--skip-preflight"],
        "pull": ["pull", artifact.name, "--from", (built / "remote").as_uri()],
    }[command]
    codes = []
    for size in SIZES:
        disk.mount(f"remount,size={size}k")
        done = run(*words, "--store", disk.path, cwd=built)
        codes.append(done.code)
        store = LocalStore(disk.path)
        assert {verify_artifact(p, "full").status for p in store.directories()} <= {"ok"}
        assert len(store.directories()) == (done.code == 0), done.err
        if done.code == 0:
            record(f"{command} on a small tmpfs", "done")
            break
        assert done.code == 7, (size, done.err)
        assert "space" in done.err
        assert "tip:" in done.err
        assert not list((store.root / ".staging").glob("*")), "what was begun is cleared away"
        record(f"{command} on a small tmpfs", "no space left, nothing half visible")
    assert codes[0] == 7
    disk.mount("remount,size=4m")
    again = run(*words, "--store", disk.path, cwd=built)
    assert again.code == 0, again.err
    assert [verify_artifact(p, "full").status for p in LocalStore(disk.path).directories()] == [
        "ok"
    ]


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_disk_that_fills_within_a_file(
    verb: str, built: Path, tmp_path: Path, record: Record
) -> None:
    """The system writes what fits and says how much that was; only the next call fails."""
    (artifact,) = LocalStore(built).directories()
    remote = (built if verb == "pull" else tmp_path) / "remote"
    words = {
        "pull": ["pull", artifact.name, "--from", remote.as_uri(), "--store", str(tmp_path)],
        "push": ["push", str(artifact), "--to", remote.as_uri()],
    }[verb]
    for limit in (artifact.joinpath("artifact.json").stat().st_size // 2, 20_001, 100_001):
        done = _run_with_small_files(limit, *words)
        assert done.returncode == 1, done.stderr
        assert "File too large" in done.stderr
        assert "Traceback" not in done.stderr
        assert LocalStore(tmp_path).directories() == []
        assert not list(tmp_path.glob("remote/manifests/*"))
        record(f"{verb} to a disk that fills within a file", "a clear error, nothing visible")
    assert run(*words).code == 0
    if verb == "push":
        back = ["pull", artifact.name, "--from", remote.as_uri(), "--store", tmp_path]
        assert run(*back).code == 0
    (pulled,) = LocalStore(tmp_path).directories()
    assert verify_artifact(pulled, "full").status == "ok"


def _run_with_small_files(limit: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the tool where no file may be larger than ``limit`` bytes: writing stops in its midst."""
    code = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY)); "
        "runpy.run_module('neuron_artifacts', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def test_a_read_only_disk(disk: Disk, built: Path, record: Record) -> None:
    """What is there is used as ever; what would write says that it cannot."""
    disk.mount("remount,size=8m")
    (artifact,) = LocalStore(built).directories()
    here = LocalStore(disk.path).path(artifact.name)
    shutil.copytree(artifact, here)
    disk.mount("remount,ro")
    store = ["--store", str(disk.path)]
    table = [
        (["compile", "model", *FLAGS, *store], 0),
        (["cache-lookup", "model", *FLAGS, *store], 0),
        (["verify", "--all", *store], 0),
        (["list", *store], 0),
        (["validate", str(here)], 0),
        (["repair", "--all", *store], 0),
        (["compile", "model", *FLAGS, *store, "--force"], 1),
        (["compile", "model", "--seq-len", "32", *store], 1),
        (["pull", artifact.name, "--from", (built / "remote").as_uri(), *store], 0),
        (["gc", "--max-size", "0", "--dry-run", *store], 0),
        (["gc", "--max-size", "0", *store], 1),
        (["pin", artifact.name, *store], 1),
    ]
    for words, code in table:
        done = run(*words, cwd=built)
        assert done.code == code, (words, done.err)
        if code:
            assert "cannot be written" in done.err
            assert "tip:" in done.err
        record(f"{words[0]} on a read-only disk", "done" if code == 0 else "a clear error")
    assert verify_artifact(here, "full").status == "ok"


def test_a_store_on_another_file_system(built: Path, record: Record) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == built.stat().st_dev:
        pytest.skip("there is no second file system")
    place = other / f"neuron-artifacts-{os.getpid()}"
    try:
        for words in (
            ["compile", "model", *FLAGS],
            ["compile", "model", *FLAGS, "--force"],
            [
                "pull",
                LocalStore(built).directories()[0].name,
                "--from",
                (built / "remote").as_uri(),
            ],
            ["verify", "--all"],
            ["gc", "--max-size", "0"],
        ):
            done = run(*words, "--store", place, cwd=built)
            assert done.code == 0, (words, done.err)
            record(f"{words[0]} with the store on another file system", "done")
        assert LocalStore(place).directories() == []
        done = run("compile", "model", *FLAGS, "--output", place / "mine", cwd=built)
        assert done.code == 0, done.err
        assert verify_artifact(place / "mine", "full").status == "ok"
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("home", ["unset", "missing", "a file"])
def test_a_home_that_is_not_there(
    home: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    """The cache saves work, and nothing depends on it."""
    monkeypatch.delenv("NEURON_ARTIFACTS_CACHE")
    (tmp_path / "file").write_text("")
    places = {"missing": tmp_path / "nobody", "a file": tmp_path / "file" / "nobody"}
    if home == "unset":
        monkeypatch.delenv("HOME")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nobody"))
    else:
        monkeypatch.setenv("HOME", str(places[home]))
    for words in (["compile", "model", *FLAGS], ["verify", "--all"], ["gc", "--max-size", "0"]):
        done = run(*words, "--store", tmp_path, cwd=built)
        assert done.code == 0, done.err
        record(f"{words[0]} with a home that is {home}", "done")


@pytest.fixture
def image(disk: Disk, built: Path) -> Iterator[Path]:
    """A store that came with a container image: the lower layer of an overlay."""
    disk.mount("remount,size=128m")
    lower, upper, work, merged = (disk.path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    shutil.copytree(LocalStore(built).root, lower / LocalStore(built).root.name)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    try:
        subprocess.run(
            ["mount", "-t", "overlay", "-o", options, "overlay", merged],
            check=True, capture_output=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no overlay can be mounted here: {error.stderr!r}")
    yield merged
    subprocess.run(["umount", merged], check=True, capture_output=True)


def test_a_store_within_a_container_image(image: Path, built: Path, record: Record) -> None:
    """Its directories cannot be renamed (EXDEV), as those of an upper layer can."""
    store = ["--store", str(image)]
    (path,) = LocalStore(image).directories()
    for words in (
        ["compile", "model", *FLAGS],
        ["verify", "--all"],
        ["compile", "model", *FLAGS, "--force"],
        ["verify", "--all"],
        ["compile", "model", *FLAGS],
    ):
        done = run(*words, *store, cwd=built)
        assert done.code == 0, (words, done.err)
        assert [verify_artifact(p, "full").status for p in LocalStore(image).directories()] == [
            "ok"
        ]
        record(f"{words[0]} in a store within a container image", "done")
    (aside,) = (path.parent / ".set-aside").iterdir()
    assert verify_artifact(aside, "full").status == "ok"
    assert run("gc", "--max-size", "0", *store).code == 0
    assert LocalStore(image).directories() == []


def test_what_is_damaged_within_a_container_image(image: Path, built: Path, record: Record) -> None:
    (path,) = LocalStore(image).directories()
    weights = path / "weights/model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = run("repair", "--all", "--store", image, cwd=built)
    assert done.code == 0, done.err
    assert verify_artifact(path, "full").status == "ok"
    assert list((path.parent / ".staging").glob("*")) == []
    record("repair in a store within a container image", "done")


def test_collecting_within_a_container_image(image: Path, record: Record) -> None:
    (path,) = LocalStore(image).directories()
    done = run("gc", "--max-size", "0", "--store", image)
    assert (done.code, "frees nothing" in done.err, "tip:" in done.err) == (1, True, True)
    assert verify_artifact(path, "full").status == "ok"
    record("gc in a store within a container image", "a clear error, nothing removed")
