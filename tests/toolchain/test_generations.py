"""Which packages make which backend, and which variables each generation reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuron_artifacts.toolchain.generations import (
    DESCRIPTIONS,
    GENERATIONS,
    KEY_PACKAGES,
    REQUIREMENTS,
    VARIABLES,
    generations_of,
    ignored_variables,
    missing_packages,
    sdk_of_compiler,
)
from tests.models import ROOT
from tests.toolchain.environments import NXDI

CC = {"neuronx-cc": "2.21.33363.0", "torch-neuronx": "2.8.0.2.10.16998"}
OPTIMUM = {**CC, "neuronx-distributed": "0.15.22404", "optimum-neuron": "0.4.5"}
TNX = {**CC, "transformers-neuronx": "0.13.1315"}
NATIVE = {
    "neuronx-cc": "2.26.6360.0", "vllm": "0.21.0", "vllm-neuron": "0.21.0.1.0.0",
    "libtorch-neuronx-lite": "2.11.0.1.0.696",
}  # fmt: skip


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ({}, ()),
        ({"torch": "2.9.1", "transformers": "4.57.6", "vllm": "0.11.0"}, ()),
        (NXDI, ("nxdi",)),
        ({**NXDI, "vllm": "0.16.0", "vllm-neuron": "0.5.0"}, ("nxdi",)),
        ({**NXDI, "vllm": "0.19.0", "vllm-neuron": "0.6.0"}, ("nxdi",)),
        ({n: v for n, v in NXDI.items() if n != "neuronx-cc"}, ()),
        (OPTIMUM, ("optimum",)),
        ({"optimum-neuron": "0.4.5", "transformers": "4.57.1"}, ()),
        (TNX, ("transformers-neuronx",)),
        ({**NXDI, **TNX}, ("nxdi", "transformers-neuronx")),
        (NATIVE, ("vllm-neuron",)),
        ({**NATIVE, "vllm-neuron": "0.24.0.1.1.0"}, ("vllm-neuron",)),
        ({**NATIVE, "vllm-neuron": "1.0.0"}, ("vllm-neuron",)),
        ({**NATIVE, "vllm-neuron": "dev"}, ()),
        ({**NATIVE, **NXDI}, ("nxdi", "vllm-neuron")),
    ],
)
def test_generations(packages: dict[str, str], expected: tuple[str, ...]) -> None:
    assert generations_of(packages) == expected


def test_an_old_library_is_named_with_the_version_that_does() -> None:
    old = {**NATIVE, "vllm-neuron": "0.6.0"}
    assert missing_packages("vllm-neuron", old) == ("vllm-neuron>=0.21",)
    early = {**CC, "neuronx-distributed": "0.14", "optimum-neuron": "0.3.0"}
    assert missing_packages("optimum", early) == ("optimum-neuron>=0.4",)
    assert missing_packages("optimum", {**early, "optimum-neuron": "0.4.0"}) == ()
    assert missing_packages("nxdi", CC) == (
        "neuronx-distributed", "neuronx-distributed-inference",
    )  # fmt: skip


def test_every_compiler_of_the_release_manifest_has_its_sdk() -> None:
    table = json.loads((ROOT / "tests/data/toolchain/compilers.json").read_text())["neuronx-cc"]
    assert len(table) > 20
    for release, compiler in table.items():
        assert sdk_of_compiler(compiler) == release.rpartition(".")[0], release


@pytest.mark.parametrize("version", ["", "1.0.post1", "2", "2.5.0.28", "2.99.1", "dev"])
def test_a_compiler_of_no_known_sdk(version: str) -> None:
    assert sdk_of_compiler(version) is None


@pytest.mark.parametrize(
    ("packages", "ignored"),
    [
        ({}, set()),
        (
            {**NXDI, "vllm": "0.16.0", "vllm-neuron": "0.5.0"},
            {
                "VLLM_CACHE_ROOT", "NEURON_CONTEXT_LENGTH_BUCKETS", "NEURON_TOKEN_GEN_BUCKETS",
                "NEURON_QUANT_DTYPE", "VLLM_NEURON_FRAMEWORK", "CUSTOM_CACHE_REPO",
                "NEURON_LIBTORCH_REMOTE_CACHE", "NEURON_LIBTORCH_DISABLE_COMPILE_CACHE",
                "VLLM_NEURON_DISABLE_WARMUP_COMPILE", "VLLM_NEURON_CPU_COMPILE",
            },
        ),
        (
            {**NATIVE},
            {
                "NEURON_COMPILED_ARTIFACTS", "NEURON_CONTEXT_LENGTH_BUCKETS",
                "NEURON_TOKEN_GEN_BUCKETS", "NEURON_QUANT_DTYPE", "VLLM_NEURON_FRAMEWORK",
                "CUSTOM_CACHE_REPO", "NEURON_COMPILE_CACHE_URL",
            },
        ),
        (
            {**NXDI, **TNX, "vllm": "0.7.2"},
            {
                "VLLM_CACHE_ROOT", "CUSTOM_CACHE_REPO", "NEURON_LIBTORCH_REMOTE_CACHE",
                "NEURON_LIBTORCH_DISABLE_COMPILE_CACHE", "VLLM_NEURON_DISABLE_WARMUP_COMPILE",
                "VLLM_NEURON_CPU_COMPILE",
            },
        ),
    ],
    ids=["nothing", "plugin-0.5", "vllm-neuron-0.21", "fork-with-both"],
)  # fmt: skip
def test_variables_nothing_reads(packages: dict[str, str], ignored: set[str]) -> None:
    environ = {variable.name: "1" for variable in VARIABLES}
    found = ignored_variables(packages, generations_of(packages), environ)
    assert {variable.name for variable in found} == ignored
    assert ignored_variables(packages, generations_of(packages), dict.fromkeys(environ, "")) == ()


def test_the_tables_speak_of_the_same_generations() -> None:
    assert set(REQUIREMENTS) == set(KEY_PACKAGES) == set(DESCRIPTIONS) == set(GENERATIONS)
    for name in GENERATIONS:
        assert set(REQUIREMENTS[name]) <= set(KEY_PACKAGES[name])
    for variable in VARIABLES:
        assert variable.readers <= {*GENERATIONS, "vllm-fork"}
        assert ": " in variable.source, "a repository and a file"
    assert Path(ROOT / "docs/toolchains.md").exists()
