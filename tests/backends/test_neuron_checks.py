from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.backends.neuron_checks import check_neuron_directory
from neuron_artifacts.backends.neuron_host import NeuronHost
from neuron_artifacts.build.adopt import adopt_directory
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import publish
from tests.artifact.neuron_files import make_neff, write, write_nxdi


@pytest.fixture
def adopted(tmp_path: Path) -> Path:
    store = LocalStore(tmp_path / "store", DigestCache(tmp_path / "digests"))
    return adopt_directory(write_nxdi(tmp_path), store).path


@pytest.mark.parametrize(
    ("host", "word", "status", "code"),
    [
        (NeuronHost("trn1", 1, 32), "usable", "ok", 0),
        (NeuronHost("trn2", 2, 64), "incompatible", "incompatible", 4),
    ],
)
def test_one_of_four_words(
    tmp_path: Path, host: NeuronHost, word: str, status: str, code: int
) -> None:
    neuron = check_neuron_directory(write_nxdi(tmp_path), "full", host=host)
    assert neuron is not None
    assert (neuron.word, neuron.verdict.status, neuron.verdict.exit_code) == (word, status, code)


def test_advice_leaves_it_usable(tmp_path: Path) -> None:
    lora = {"lora_ckpt_paths": {"fr": "/nowhere"}}
    neuron = check_neuron_directory(write_nxdi(tmp_path, {"lora_config": lora}))
    assert neuron is not None
    assert (neuron.word, neuron.verdict.exit_code) == ("recompile advised", 0)


def test_half_a_compile_is_incomplete_and_the_word_is_corrupt(tmp_path: Path) -> None:
    directory = write_nxdi(tmp_path)
    (directory / "model.pt").unlink()
    neuron = check_neuron_directory(directory)
    assert neuron is not None
    assert (neuron.word, neuron.verdict.status) == ("corrupt", "incomplete")


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda d: flip(d / "weights/tp1_sharded_checkpoint.safetensors"), "corrupt"),
        (lambda d: flip(d / "model.pt", 1200), "corrupt"),
        (lambda d: (d / "model.pt").unlink(), "incomplete"),
        (lambda d: flip(d / "artifact.json"), "corrupt"),
    ],
)
def test_with_a_manifest_every_byte_counts(
    adopted: Path, damage: Callable[[Path], None], status: str
) -> None:
    whole = check_neuron_directory(adopted, "full")
    assert whole is not None
    assert (whole.word, whole.findings) == ("usable", ())
    damage(adopted)
    neuron = check_neuron_directory(adopted, "full")
    assert neuron is not None
    assert neuron.verdict.status == status
    assert neuron.verdict.problems


def test_everything_gone_but_the_manifest(adopted: Path) -> None:
    for path in [p for p in adopted.rglob("*") if p.is_file() and p.name != "artifact.json"]:
        path.unlink()
    neuron = check_neuron_directory(adopted)
    assert neuron is not None
    assert (neuron.contents, neuron.verdict.status) == (None, "incomplete")


def test_quick_leaves_the_bytes_of_a_neff_unread(tmp_path: Path) -> None:
    neff = bytearray(make_neff())
    neff[1100] ^= 1
    directory = write_nxdi(tmp_path, neffs=[bytes(neff)])
    quick, full = (check_neuron_directory(directory, d) for d in ("quick", "full"))
    assert quick is not None
    assert full is not None
    assert (quick.word, full.word) == ("usable", "corrupt")


def test_what_no_neuron_library_wrote_is_left_to_others(tmp_path: Path) -> None:
    assert check_neuron_directory(publish(tmp_path)) is None
    assert check_neuron_directory(tmp_path / "none") is None
    assert (
        check_neuron_directory(write(tmp_path / "x" / "neuron_config.json", b"{}").parent) is None
    )
