"""Every way an artifact comes to be writes down how, in terms the artifact itself confirms."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import PROVENANCE_NAME, read_manifest
from neuron_artifacts.build.adopt import adopt_directory
from neuron_artifacts.store import LocalStore
from neuron_artifacts.trust.judgement import judge_artifact
from tests.artifact.neuron_files import write_nxdi
from tests.cli.run import run
from tests.doubles.environments import make_neuron_environment
from tests.doubles.vllm_environments import make_vllm_environment
from tests.models import ADDER, change_weights, copy_model

NEURON = {
    "nxdi": ("nxdi", "trn1", ["--tp-degree", "2"]),
    "optimum": ("optimum_neuron", "trn1", ["--tp-degree", "2", "--allow-compile"]),
    "transformers-neuronx": ("transformers_neuronx", "trn1", ["--tp-degree", "2"]),
    "vllm-neuron": ("native", "trn2", ["--tp-degree", "2"]),
}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def read(artifact: Path) -> Any:
    assert judge_artifact(artifact, ()).problems == ()
    return json.loads((artifact / PROVENANCE_NAME).read_text())["predicate"]


def check(artifact: Path, backend: str, *inputs: str) -> Any:
    """What SLSA asks of a predicate, and that nothing of this machine stands in it."""
    predicate, manifest = read(artifact), read_manifest(artifact)
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["externalParameters"]["backend"] == backend
    assert definition["externalParameters"]["key"] == manifest.key
    assert definition["internalParameters"]["toolchain"].items() >= manifest.toolchain.items()
    assert {row["name"] for row in definition["resolvedDependencies"]} >= set(inputs)
    assert details["builder"]["id"] == "urn:neuron-artifacts:local"
    times = details["metadata"]
    assert times["startedOn"] <= times["finishedOn"]
    text = (artifact / PROVENANCE_NAME).read_text()
    for place in (str(artifact.parents[1]), str(ADDER), os.uname().nodename, str(Path.home())):
        assert place not in text
    return definition


@pytest.mark.parametrize("backend", NEURON)
def test_each_neuron_backend(backend: str, tmp_path: Path) -> None:
    double, target, own = NEURON[backend]
    make = make_vllm_environment if backend == "vllm-neuron" else make_neuron_environment
    python = make(tmp_path / "python", double)
    (place := tmp_path / "place").mkdir()
    flags = ["--seq-len", "256", "--batch-size", "2", *own]
    result = run(
        "compile", ADDER, "--backend", backend, "--target", target, "--python", python, *flags,
        cwd=place, NEURON_DOUBLE_LOG=str(place / "compiles"),
    )  # fmt: skip
    assert result.code == 0, result.err
    (artifact,) = LocalStore(place).directories()
    definition = check(artifact, backend, "config.json", "model.safetensors", "tokenizer.json")
    command = definition["internalParameters"]["command"]
    assert command[:3] == ["neuron-artifacts", "compile", "adder"]
    assert set(flags) <= set(command)
    assert "--python" not in command, "it names a place"


def test_the_embedded_compiler_and_what_is_taken_from_other_artifacts(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    flags = ("--seq-len", "64", "--context-encoding-buckets", "64", "--backend", "cpu")
    assert run("compile", model, *flags, cwd=tmp_path).code == 0
    (first,) = LocalStore(tmp_path).directories()
    check(first, "cpu", "config.json", "model.safetensors")
    change_weights(model)
    assert run("compile", model, *flags, cwd=tmp_path).code == 0
    second = LocalStore(tmp_path).directories()[0]
    definition = check(second, "cpu", "config.json", "model.safetensors")
    reused = {r["name"]: r["uri"] for r in definition["resolvedDependencies"] if "urn:" in r["uri"]}
    assert set(reused) == {graph.file for graph in read_manifest(second).graphs}
    assert set(reused.values()) == {f"urn:neuron-artifacts:key:{first.name}"}


def test_what_was_adopted_says_that_its_toolchain_is_not_known(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", DigestCache(tmp_path / "digests"))
    adopted = adopt_directory(write_nxdi(tmp_path), store)
    definition = check(adopted.path, "nxdi", "model.pt", "neuron_config.json")
    assert definition["buildType"] == "urn:neuron-artifacts:adopt:v1"
    assert set(definition["internalParameters"]["toolchain"].values()) >= {"unknown"}


def test_a_builder_that_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_ARTIFACTS_BUILDER", "https://ci.example.com/builds")
    store = LocalStore(tmp_path / "store", DigestCache(tmp_path / "digests"))
    adopted = adopt_directory(write_nxdi(tmp_path), store)
    assert judge_artifact(adopted.path, ()).builder == "https://ci.example.com/builds"
