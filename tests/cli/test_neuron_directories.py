"""validate, inspect, adopt and list on what Neuron libraries write, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from neuron_artifacts.backends.nxdi.loaders import VllmArguments
from neuron_artifacts.backends.nxdi.vllm_hash import vllm_artifact_hash
from tests.artifact.neuron_files import (
    make_model_pt,
    make_neff,
    write,
    write_entry,
    write_nxdi,
    write_optimum,
)
from tests.backends.nxdi.vectors import read
from tests.cli.run import run
from tests.doubles.environments import make_neuron_environment
from tests.models import ADDER, copy_model
from tests.toolchain.environments import NXDI, make_environment

QUIET = {"NEURON_ARTIFACTS_PYTHON": "", "NEURON_PLATFORM_TARGET_OVERRIDE": ""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_nxdi(tmp_path)


@pytest.mark.parametrize(
    ("target", "word", "field", "code"),
    [
        ("trn1", "usable", None, 0),
        ("inf2.xlarge", "usable", None, 0),
        ("trn2", "incompatible", "logical_nc_config", 4),
    ],
)
def test_validate_for_a_target(
    source: Path, target: str, word: str, field: str | None, code: int
) -> None:
    result = run("validate", source, "--target", target, "--json", **QUIET)
    assert (result.code, result.data["verdict"], result.data["exit_code"]) == (code, word, code)
    assert [finding["field"] for finding in result.data["findings"]] == ([field] if field else [])
    text = run("validate", source, "--target", target, **QUIET)
    assert text.out.startswith(f"{source}: {word} (quick)")


def test_validate_for_libraries(tmp_path: Path) -> None:
    directory = write_optimum(tmp_path)
    packages = {**NXDI, "optimum-neuron": "0.4.6"}
    python = make_environment(tmp_path / "venv", packages)
    result = run("validate", directory, "--python", python, "--json", **QUIET)
    assert (result.code, result.data["verdict"]) == (0, "recompile advised")
    assert [f["field"] for f in result.data["findings"]] == ["neuronx-cc"]
    assert (
        "advice: it was compiled with neuronx-cc 2.21.33363.0"
        in run("validate", directory, "--python", python, **QUIET).out
    )
    bare = make_environment(tmp_path / "bare")
    lacking = run("validate", directory, "--python", bare, "--json", **QUIET)
    assert (lacking.code, lacking.data["verdict"]) == (4, "incompatible")


def test_validate_of_half_a_compile(source: Path) -> None:
    (source / "model.pt").unlink()
    result = run("validate", source, "--json", **QUIET)
    assert (result.code, result.data["verdict"], result.data["status"]) == (
        5, "corrupt", "incomplete",
    )  # fmt: skip
    assert "interrupted" in result.data["problems"][0]


@pytest.mark.parametrize(
    "arguments", [("--target", "gpu"), ("--python", "/nowhere/python")]
)  # fmt: skip
def test_validate_against_nothing(source: Path, arguments: tuple[str, str]) -> None:
    assert run("validate", source, *arguments, **QUIET).code in (1, 2)


def test_a_target_means_nothing_elsewhere(tmp_path: Path) -> None:
    result = run("validate", tmp_path, "--target", "trn1", **QUIET)
    assert result.code == 2
    assert "not the work of a Neuron library" in result.err


def test_inspect_shows_neffs_configuration_and_shards(source: Path) -> None:
    data = run("inspect", source, "--json").data["neuron"]
    assert (data["kind"], data["config_md5"]) == ("nxdi", source.name)
    assert data["neuron_config"]["quantize_clamp_bound"] == "inf"
    assert [(neff["path"], neff["name"], neff["major"]) for neff in data["neffs"]] == [
        ("model.pt", "graph", 2), ("model.pt", "b", 2),
    ]  # fmt: skip
    assert [shard["path"] for shard in data["shards"]] == [
        f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1)
    ]
    text = run("inspect", source).out
    for part in (source.name, "model.pt", "tp1_sharded_checkpoint.safetensors", "2.0.1.0%"):
        assert part in text


@pytest.mark.parametrize("name", ["neuron_config.json", "model.pt", "weights/tp0_sharded_checkpoint"
                                  ".safetensors", "artifact.json"])  # fmt: skip
def test_a_pipe_in_a_strangers_directory_is_not_waited_for(source: Path, name: str) -> None:
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    for command in (["validate", "--full"], ["adopt", "--store", source.parent], ["inspect"]):
        assert run(*command, source, **QUIET).code in (0, 2, 5)


def test_a_neff_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{'a' * 20}.neff")
    checked = run("validate", tmp_path, "--json", **QUIET)
    assert (checked.code, checked.data["verdict"]) == (5, "corrupt")
    assert "not a regular file" in checked.data["problems"][0]


@pytest.mark.parametrize("flags", [(), ("--target", "trn1")])
def test_what_is_not_there_is_missing_whatever_it_is_judged_for(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    for place in (tmp_path / "nothing", tmp_path / "file"):
        result = run("validate", place, *flags, **QUIET)
        assert (result.code, place.name in result.out + result.err) == (3, True)
        (tmp_path / "file").touch()
    assert "it is no directory" in run("validate", tmp_path / "file", **QUIET).err


def test_inspect_shows_what_is_broken(source: Path) -> None:
    write(source / "model.pt", b"nothing")
    result = run("inspect", source)
    assert result.code == 0
    assert "corrupt" in result.out
    assert run("inspect", source.parent / "none").code == 3


def test_inspect_of_a_cache_of_vllm_neuron(tmp_path: Path) -> None:
    entry = write_entry(tmp_path)
    data = run("inspect", tmp_path, "--json").data["neuron"]
    assert data["kind"] == "vllm-neuron"
    assert data["neffs"][0]["path"] == f"{entry.name}/graph_{entry.name}.neff"


def test_adopt_then_everything_else(tmp_path: Path, source: Path) -> None:
    model = copy_model(tmp_path / "model")
    result = run("adopt", source, "--model", model, "--json", cwd=tmp_path)
    assert result.code == 0
    path = Path(result.data["path"])
    assert path.name == result.data["key"]
    assert result.data["serve"]["md5"] == source.name
    assert result.data["left_out"] == []
    checked = run("validate", path, "--full", "--json", **QUIET)
    assert (checked.code, checked.data["verdict"], checked.data["key"]) == (0, "usable", path.name)
    assert run("validate", path, "--target", "trn2", **QUIET).code == 4
    assert run("inspect", path, "--json").data["neuron"]["config_md5"] == source.name
    listed = run("list", "--json", cwd=tmp_path).data["artifacts"]
    assert [(row["key"], row["status"], row["backend"]) for row in listed] == [
        (path.name, "ok", "nxdi")
    ]
    again = run("adopt", source, "--model", model, cwd=tmp_path)
    assert "was there already" in again.out
    assert json.loads((path / "artifact.json").read_bytes())["key"] == path.name


def test_what_vllm_compiled_answers_as_it_did(tmp_path: Path) -> None:
    """Compiled by a double of NxD Inference, stripped to what vLLM leaves, adopted, and loaded."""
    python = make_neuron_environment(tmp_path / "venv", "nxdi")
    environ = {"NEURON_ARTIFACTS_PYTHON": str(python), "NEURON_DOUBLE": "cores=2"}
    flags = ["--backend", "nxdi", "--target", "trn1", "--tp-degree", "2", "--seq-len", "256"]
    built = run("compile", ADDER, *flags, "--json", cwd=tmp_path, **environ)
    assert built.code == 0, built.err
    compiled = Path(built.data["path"])
    text = (compiled / "neuron_config.json").read_bytes().removesuffix(b"\n")
    left = tmp_path / hashlib.md5(text).hexdigest()
    shutil.copytree(compiled, left)
    for name in ("artifact.json", "artifact.provenance.json", "config.json", "tokenizer.json"):
        (left / name).unlink()
    adopted = run(
        "adopt", left, "--model", ADDER, "--target", "trn1", "--store", "s", "--json", cwd=tmp_path
    )
    assert adopted.code == 0, adopted.err
    answers = [
        run("generate", "--artifacts", path, "--prompt", "1+2=", "--max-tokens", "6",
            "--temperature", "0", "--ignore-eos", "--json", **environ)
        for path in (compiled, adopted.data["path"])
    ]  # fmt: skip
    assert [answer.code for answer in answers] == [0, 0]
    assert answers[0].data == answers[1].data
    checked = run("validate", adopted.data["path"], "--full", "--python", python, "--json")
    assert (checked.code, checked.data["verdict"]) == (0, "usable")


def test_the_vllm_that_asked_for_it_is_told(tmp_path: Path) -> None:
    told = vllm_artifact_hash(
        read("vectors")["models"]["tiny-llama"], model="tiny-llama", sdk="2.24",
        loader="aws-fork-2.24", arguments=VllmArguments(2, 4, 512, "bfloat16"),
        override_neuron_config={"save_sharded_checkpoint": True},
    )  # fmt: skip
    source = write_nxdi(tmp_path).rename(tmp_path / told.md5)
    write(source / "neuron_config.json", f"{told.document}\n".encode())
    model = copy_model(tmp_path / "model")
    adopted = run("adopt", source, "--model", model, "--json", cwd=tmp_path, **QUIET)
    assert adopted.code == 0, adopted.err
    assert adopted.data["serve"]["loader"] == "aws-fork-2.24"
    shown = run("env", adopted.data["path"], "--json").data
    assert shown["loader"] == "aws-fork-2.24"
    at = shown["command"].index("--override-neuron-config") + 1
    assert json.loads(shown["command"][at]) == {"save_sharded_checkpoint": True}


def test_a_vllm_that_cannot_be_told_must_be_named(tmp_path: Path, source: Path) -> None:
    model = copy_model(tmp_path / "model")
    adopted = run("adopt", source, "--model", model, "--json", cwd=tmp_path, **QUIET)
    assert adopted.data["serve"]["loader"] is None
    result = run("env", adopted.data["path"])
    assert (result.code, "--vllm-loader" in result.err) == (2, True)
    assert run("env", adopted.data["path"], "--vllm-loader", "vllm-neuron-0.5").code == 0


def test_vllms_name_is_as_good_as_ours(tmp_path: Path, source: Path) -> None:
    model = copy_model(tmp_path / "model")
    adopted = run("adopt", source, "--model", model, "--json", cwd=tmp_path, **QUIET).data
    shutil.rmtree(source)
    for name in (source.name, f"neuron-compiled-artifacts/{source.name}", adopted["key"][:12]):
        shown = run("inspect", name, "--json", cwd=tmp_path)
        assert (shown.code, shown.data["key"]) == (0, adopted["key"])
        checked = run("validate", name, "--json", cwd=tmp_path, **QUIET)
        assert (checked.code, checked.data["key"]) == (0, adopted["key"])
    for command in ("verify", "pin", "sbom", "env"):
        flags = ["--vllm-loader", "vllm-neuron-0.5"] if command == "env" else []
        assert run(command, source.name, *flags, "--json", cwd=tmp_path).code == 0
    assert run("diff", source.name, adopted["key"], cwd=tmp_path).code == 0
    found = run("cache-lookup", source.name, "--json", cwd=tmp_path)
    assert (found.code, found.data["paths"]) == (0, [adopted["path"]])
    assert adopted["key"] in run("cache-lookup", source.name, cwd=tmp_path).out
    serving = run("serve", "--artifacts", source.name, cwd=tmp_path, **QUIET)
    assert (serving.code, adopted["key"] in serving.err) == (1, True), "found, if not served"


def test_a_name_of_nothing_is_a_miss(tmp_path: Path) -> None:
    name = "0123456789abcdef" * 2
    for command in (["inspect"], ["validate"], ["verify"], ["serve", "--artifacts"], ["env"]):
        assert run(*command, name, cwd=tmp_path, **QUIET).code == 3
    result = run("cache-lookup", name, "--json", cwd=tmp_path)
    assert (result.code, result.data["found"]) == (3, False)


@pytest.mark.parametrize(
    ("name", "data", "code", "message"),
    [
        ("model.pt", None, 5, "is missing"),
        ("model.pt", make_model_pt([make_neff()])[:-30], 5, "cut short"),
        ("neuron_config.json", b"{", 5, "no JSON"),
        ("artifact.json", b"{}", 2, "manifest already"),
    ],
)
def test_adopt_refuses_with_the_reason(
    tmp_path: Path, source: Path, name: str, data: bytes | None, code: int, message: str
) -> None:
    if data is None:
        (source / name).unlink()
    else:
        write(source / name, data)
    result = run("adopt", source, "--json", cwd=tmp_path)
    assert (result.code, result.data["error"]["exit_code"]) == (code, code)
    assert message in result.data["error"]["message"]
    assert not list((tmp_path / "neuron-compiled-artifacts").glob("[0-9a-f]*"))
