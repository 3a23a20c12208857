"""A whole artifact of every released schema: verified, inspected, relinked from and run."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.artifact.manifest import SCHEMA
from neuron_artifacts.backends.cpu.targets import missing_features, resolve_target
from neuron_artifacts.backends.registry import backend_of_artifact
from neuron_artifacts.store import LocalStore
from tests.cli.run import run
from tests.reference.golden import read_golden

DATA = Path(__file__).parents[1] / "data" / "artifacts"
GOLDEN = sorted(DATA.iterdir())
MODEL = "llama-wide-heads-linear"
"""What they were compiled from: float32, one bucket of 64 each."""


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy in a store, under its key."""
    target = LocalStore(tmp_path).path(read_manifest(request.param).key)
    return Path(shutil.copytree(request.param, target))


def test_every_schema_up_to_this_release_is_kept() -> None:
    assert [path.name for path in GOLDEN] == [f"schema-{n}" for n in range(1, SCHEMA + 1)]


def test_it_is_read_and_holds(artifact: Path, tmp_path: Path) -> None:
    verdict = verify_artifact(artifact, "full")
    assert verdict.status == "ok", verdict.problems
    assert verdict.manifest
    assert len(verdict.manifest.graphs) == 2
    for command in (["list"], ["verify", "--all"], ["inspect", artifact]):
        assert run(*command, "--json", cwd=tmp_path).code == 0
    damaged = next((artifact / "weights").glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    assert run("verify", artifact.name[:16], cwd=tmp_path).code == 5


def test_it_gives_the_answers_it_gave(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    if missing_features(resolve_target(manifest.target)):
        pytest.skip(f"this machine is no {manifest.target}")
    backend = backend_of_artifact(manifest.backend)
    with closing(backend.open_runner(artifact, manifest, threads=1)) as runner:
        for answer in read_golden(MODEL).answers:
            room = runner.seq_len - len(answer.prompt)
            if room < 1:
                continue
            expected = list(answer.continuation)[:room]
            tokens = [int(runner.prefill(0, answer.prompt, 0).argmax())]
            for position in range(len(answer.prompt), len(answer.prompt) + len(expected) - 1):
                tokens.append(int(runner.decode([0], tokens[-1:], [position])[0].argmax()))
            assert tokens == expected
