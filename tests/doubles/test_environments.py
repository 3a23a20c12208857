"""The doubles look like the libraries to whoever asks for versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_artifacts.toolchain import choose_toolchain
from tests.doubles.environments import PACKAGES, make_neuron_environment


@pytest.mark.parametrize(
    ("double", "backend"),
    [("optimum_neuron", "optimum"), ("transformers_neuronx", "transformers-neuronx")],
)
def test_a_toolchain_with_a_double_runs_its_backend(
    tmp_path: Path, double: str, backend: str
) -> None:
    python = make_neuron_environment(tmp_path, double)
    toolchain = choose_toolchain(backend, {"PATH": ""}, python=python)
    assert toolchain.python == python
    assert backend in toolchain.generations
    assert PACKAGES[double].items() <= toolchain.packages.items()
