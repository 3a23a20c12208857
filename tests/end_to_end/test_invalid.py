"""``serve`` on an artifact that does not hold: refused with the way out, or rebuilt loudly."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import httpx
import pytest

from tests.cli.run import run
from tests.end_to_end.conftest import serving
from tests.models import copy_model


@pytest.fixture
def spoiled(adder: Path, tmp_path: Path) -> Path:
    shutil.copytree(adder, tmp_path / "artifact")
    return tmp_path / "artifact"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def edit_target(path: Path, target: str) -> None:
    """An artifact of another machine, its digests in order."""
    from dataclasses import replace

    from neuron_artifacts.artifact import read_manifest

    manifest = replace(read_manifest(path), target=target)
    (path / "artifact.json").chmod(0o644)
    (path / "artifact.json").write_bytes(manifest.dump())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("graphs/token_generation-128.so", 5),
        ("weights/model.safetensors", 5),
        ("tokenizer.json", 5),
        ("artifact.json", 5),
    ],
)
def test_a_flipped_bit_is_refused_with_the_command_that_repairs_it(
    spoiled: Path, name: str, code: int
) -> None:
    flip(spoiled / name)
    result = run("serve", "--artifacts", spoiled, "--port", "0")
    assert result.code == code
    assert "repair it: neuron-artifacts compile" in result.err
    assert result.out == ""


def test_the_repair_command_repairs(spoiled: Path) -> None:
    flip(spoiled / "graphs/token_generation-128.so")
    error = run("serve", "--artifacts", spoiled, "--json").data["error"]
    command = shlex.split(error["hint"].removeprefix("repair it: "))
    repaired = run(*command[1:], "--json", "--store", spoiled.parent)
    assert repaired.code == 0, repaired.err
    assert repaired.data["compiled"] == 1
    assert run("validate", spoiled, "--full").code == 0


def test_recompiling_first_is_loud_and_serves(spoiled: Path, tmp_path: Path) -> None:
    flip(spoiled / "graphs/token_generation-128.so")
    store = {"NEURON_ARTIFACTS_STORE": str(tmp_path)}  # not one that has the graph already
    with serving("--artifacts", spoiled, "--on-invalid", "recompile", **store) as served:
        assert served.ready["rebuilt_before_serving"] == 1
        assert served.ready["compiled"] == 0
        body = {"prompt": "2+2=", "temperature": 0}
        answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=30).json()
        assert answer["choices"][0]["text"] == "4"
    assert run("validate", spoiled, "--full").code == 0


def test_another_machines_target_is_incompatible_and_never_loaded(spoiled: Path) -> None:
    edit_target(spoiled, "aarch64")
    for command in (["serve", "--port", "0"], ["generate", "--prompt", "1+1="]):
        result = run(*command, "--artifacts", spoiled)
        assert result.code == 4
        assert "built for aarch64" in result.err
    assert run("validate", spoiled).code == 4


def test_a_missing_directory_is_a_miss(tmp_path: Path) -> None:
    result = run("serve", "--artifacts", tmp_path / "absent", "--json")
    assert result.code == 3
    assert json.loads(result.out)["error"]["exit_code"] == 3


def test_a_manifest_that_forgot_its_model_needs_to_be_told(spoiled: Path) -> None:
    (spoiled / "artifact.json").unlink()
    result = run("serve", "--artifacts", spoiled, "--on-invalid", "recompile")
    assert result.code == 2
    assert "--model MODEL" in result.err


def test_a_model_is_no_artifact_and_is_not_to_be_repaired(tmp_path: Path) -> None:
    result = run("serve", "--artifacts", copy_model(tmp_path / "model"))
    assert result.code == 5
    assert f"`neuron-artifacts compile {tmp_path / 'model'}` makes an artifact" in result.err
    assert "repair" not in result.err
