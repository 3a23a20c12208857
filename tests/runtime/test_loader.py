"""What is checked before an artifact is loaded, and what it costs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import neuron_artifacts
from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.errors import CorruptError, UntrustedError, UsageError
from neuron_artifacts.events import BytesMoved, Event, Note
from neuron_artifacts.runtime.loader import load_artifact, verify_trusted
from neuron_artifacts.trust.keys import generate_keys, load_private_key
from neuron_artifacts.trust.statement import sign_artifact
from tests.models import ADDER


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine for the module: what it remembers of digests."""
    monkeypatch.setenv("NEURON_ARTIFACTS_CACHE", str(cache))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURON_ARTIFACTS_CACHE", str(cache))
        outcome = neuron_artifacts.compile(
            ADDER, store=tmp_path_factory.mktemp("store"), seq_len=64,
            context_encoding_buckets=[64],
        )  # fmt: skip
    return outcome.path


@pytest.fixture
def copied(built: Path, tmp_path: Path, machine: None) -> Path:
    """As it comes from somewhere else: the same bytes, which nobody here has read."""
    directory = Path(shutil.copytree(built, tmp_path / "copied"))
    for path in directory.rglob("*"):
        os.utime(path, (1e9, 1e9))  # digests of files that may still be written are not kept
    return directory


def bytes_read(directory: Path) -> int:
    events: list[Event] = []
    load_artifact(directory, observe=events.append, warm_up=False).runner.close()
    return max((event.done for event in events if isinstance(event, BytesMoved)), default=0)


def flip_a_bit(directory: Path) -> None:
    path = next((directory / "weights").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_what_this_machine_built_is_not_read_again(built: Path, machine: None) -> None:
    assert bytes_read(built) == 0


def test_what_it_did_not_build_is_read_once(copied: Path) -> None:
    assert bytes_read(copied) == read_manifest(copied).total_bytes
    assert bytes_read(copied) == 0


def test_a_flipped_bit_is_found_by_default_and_as_deep_as_asked(copied: Path) -> None:
    flip_a_bit(copied)
    with pytest.raises(CorruptError, match="other bytes"):
        load_artifact(copied)
    for depth in ("quick", "off"):
        with neuron_artifacts.load(copied, verify=depth) as llm:
            assert llm.generate(["1+1="])
    with pytest.raises(UsageError, match="one of off, quick, full"):
        neuron_artifacts.load(copied, verify="sometimes")
    for threads in (0, -1, "two"):
        with pytest.raises(UsageError, match="threads must be"):
            neuron_artifacts.load(copied, threads=threads)  # type: ignore[arg-type]


def test_off_still_reads_the_manifest(copied: Path) -> None:
    (copied / "artifact.json").unlink()
    (copied / "artifact.json").write_text("{}\n")
    with pytest.raises(CorruptError):
        verify_trusted(copied, "off")


@pytest.mark.parametrize("depth", ["quick", "off"])
def test_a_policy_that_asks_for_a_signature_asks_for_every_byte(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: str
) -> None:
    """Signed digests say nothing about bytes that nobody compared with them."""
    private, _ = generate_keys(tmp_path / "release", {})
    policy = "keys: {release: release.pub}\nrules: [{stores: ['*'], require: [release]}]\n"
    (tmp_path / "policy.yaml").write_text(policy)
    monkeypatch.setenv("NEURON_ARTIFACTS_POLICY", str(tmp_path / "policy.yaml"))
    with pytest.raises(UntrustedError, match="signed by release"):
        neuron_artifacts.load(copied, verify=depth)
    sign_artifact(copied, load_private_key(private, {}))
    events: list[Event] = []
    verify_trusted(copied, "quick", events.append)
    assert any(isinstance(event, Note) and "every byte" in event.text for event in events)
    flip_a_bit(copied)
    with pytest.raises(CorruptError, match="other bytes"):
        neuron_artifacts.load(copied, verify=depth)
