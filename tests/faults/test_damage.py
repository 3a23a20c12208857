"""Damage in every file and every region of an artifact: found before anything is loaded."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.build import compile_artifact
from neuron_artifacts.errors import CorruptError
from neuron_artifacts.runtime.loader import load_artifact
from neuron_artifacts.spec import resolve_spec
from tests.faults.conftest import RUNS, Record

ADDER = Path(__file__).parents[2] / "examples" / "adder"
RANDOM_FLIPS = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real artifact: shared objects, weights, tokenizer, manifest, provenance."""
    place = tmp_path_factory.mktemp("whole")
    flags = {"model": str(ADDER), "store": str(place), "seq_len": 64, "batch_size": 1}
    return compile_artifact(resolve_spec(flags, environ={}), environ={}).path


@pytest.fixture
def artifact(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "artifact"))


def listed(artifact: Path) -> list[str]:
    return ["artifact.json", *(file.path for file in read_manifest(artifact).files)]


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    rewrite(path, bytes(data))


def regions(size: int) -> Iterator[tuple[str, int]]:
    yield "first byte", 0
    yield "header", min(9, size - 1)
    yield "middle", size // 2
    yield "last byte", size - 1


def test_a_flipped_bit_in_every_region_of_every_file(artifact: Path, record: Record) -> None:
    for name in listed(artifact):
        path = artifact / name
        sound = path.read_bytes()
        kind = path.suffix or name
        for region, position in regions(len(sound)):
            flip(path, position, 0)
            verdict = verify_artifact(artifact, "full")
            # A manifest whose schema number is another one is of another version, not damaged.
            assert verdict.status in ("corrupt", "incompatible"), (name, region)
            with pytest.raises(Exception, match=r"corrupt|incompatible") as caught:
                load_artifact(artifact)
            assert caught.type.__module__ == "neuron_artifacts.errors"
            rewrite(path, sound)
            record(f"bit flip, {region} of {kind}", f"{verdict.status}, not loaded")
    assert verify_artifact(artifact, "full").status == "ok"


def test_random_bits(artifact: Path, rng: random.Random, record: Record) -> None:
    names = listed(artifact)
    for _ in range(RANDOM_FLIPS * RUNS):
        path = artifact / rng.choice(names)
        sound = path.read_bytes()
        flip(path, rng.randrange(len(sound)), rng.randrange(8))
        status = verify_artifact(artifact, "full").status
        assert status in ("corrupt", "incompatible"), path
        rewrite(path, sound)
        record("random bit flip", f"{status}, found by full verification")


@pytest.mark.parametrize(
    ("what", "cut"),
    [
        ("0 bytes", lambda data: b""),
        ("half", lambda data: data[: len(data) // 2]),
        ("one byte short", lambda data: data[:-1]),
        ("one byte more", lambda data: data + b"\0"),
    ],
)
def test_every_file_cut_short_or_grown(
    what: str, cut: Callable[[bytes], bytes], artifact: Path, record: Record
) -> None:
    """Sizes are enough to see it: quick verification finds it too."""
    for name in listed(artifact):
        path = artifact / name
        sound = path.read_bytes()
        rewrite(path, cut(sound))
        assert verify_artifact(artifact, "quick").status == "corrupt", name
        with pytest.raises(CorruptError):
            load_artifact(artifact, verify="quick")
        rewrite(path, sound)
        record(f"file cut to {what}" if "more" not in what else what, "corrupt, not loaded")


def test_every_file_missing(artifact: Path, record: Record) -> None:
    for name in listed(artifact):
        path = artifact / name
        sound = path.read_bytes()
        path.unlink()
        assert verify_artifact(artifact, "quick").status == "incomplete", name
        with pytest.raises(CorruptError):
            load_artifact(artifact)
        path.write_bytes(sound)
        record("file missing", "incomplete, not loaded")


def test_every_file_behind_a_link(artifact: Path, tmp_path: Path, record: Record) -> None:
    for name in listed(artifact)[1:]:
        path = artifact / name
        away = tmp_path / "away"
        path.rename(away)
        path.symlink_to(away)
        assert verify_artifact(artifact, "quick").status == "corrupt", name
        path.unlink()
        away.rename(path)
        record("file replaced by a symbolic link", "corrupt, not loaded")


def test_what_the_manifest_does_not_list_is_reported_and_never_read(
    artifact: Path, record: Record
) -> None:
    for name in ("graphs/extra.so", "sitecustomize.py", "weights/orphan.safetensors"):
        (artifact / name).write_bytes(b"raise SystemExit")
        verdict = verify_artifact(artifact, "full")
        assert (verdict.status, verdict.extra_files) == ("ok", (name,))
        load_artifact(artifact).runner.close()
        (artifact / name).unlink()
        record("extra file", "reported, not read")
