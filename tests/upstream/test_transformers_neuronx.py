"""The transformers-neuronx worker against that library; what is closed is a double.

Graphs are their parameters alone there (``tests/doubles/closed/recording.py``): building, loading
weights, sharding them on the host, the list of buckets, compiling in processes and saving are the
library's own. Skipped unless this is set (docs/toolchains.md, *What has run against what*):

NEURON_ARTIFACTS_TRANSFORMERS_NEURONX_PATHS
    Folders for ``sys.path``, separated as ``PATH`` is: ``src`` of a checkout of
    transformers-neuronx (0.13), a transformers of its time (4.45), and where torch and safetensors
    are installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.transformers_neuronx.adapter import WORKER
from neuron_artifacts.errors import CompileError
from neuron_artifacts.worker import run_worker
from tests.doubles.environments import DOUBLES, PACKAGES
from tests.models import GOLDEN
from tests.toolchain.environments import make_environment, site_packages

PATHS = os.environ.get("NEURON_ARTIFACTS_TRANSFORMERS_NEURONX_PATHS", "")

pytestmark = pytest.mark.skipif(not PATHS, reason="no sources of transformers-neuronx")

LLAMA, MISTRAL = "llama-gqa-tied-llama3", "mistral-window"
BUCKETS = {
    "NEURON_CONTEXT_LENGTH_BUCKETS": "32,64,,128",
    "NEURON_TOKEN_GEN_BUCKETS": " 64, 128",
}


class Place:
    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder, self.output = python, folder, folder / "output"

    def run(self, action: str, model: str = LLAMA, **fields: Any) -> Mapping[str, Any]:
        environ = {**os.environ, **fields.pop("environ", {})}
        request = {
            "action": action, "model": str(GOLDEN / model / "model"), "output": str(self.output),
            "tp_degree": 2, "batch_size": 2, "max_model_len": 128, "dtype": "float32",
            "device": False, **fields,
        }  # fmt: skip
        return run_worker(
            self.python, WORKER, request, directory=self.folder / "job", environ=environ
        )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tnx")
    python = make_environment(folder, PACKAGES["transformers_neuronx"])
    paths = [str(DOUBLES / "closed"), *PATHS.split(os.pathsep)]
    (site_packages(folder) / "real.pth").write_text("\n".join([*paths, "import closed_parts\n"]))
    return python


@pytest.fixture
def place(python: Path, tmp_path: Path) -> Place:
    return Place(python, tmp_path)


@pytest.mark.parametrize("model", [LLAMA, MISTRAL])
def test_one_neff_a_graph_named_by_its_hlo(place: Place, model: str) -> None:
    result = place.run("compile", model, environ=BUCKETS)
    assert [(graph["phase"], graph["bucket"]) for graph in result["graphs"]] == [
        *(("context_encoding", size) for size in (32, 64, 128)),
        *(("token_generation", size) for size in (64, 128)),
    ]
    names = result["neffs"]
    assert len(set(names)) == 5
    assert all(len(name) == 20 + len(".neff") for name in names)
    assert set(result["files"]) == {*names, "neuron_config.json"}
    assert place.run("validate", model)["neffs"] == names
    assert place.run("compile", model, environ=BUCKETS)["neffs"] == names


def test_sampling_on_the_host(place: Place) -> None:
    environ = {"NEURON_ON_DEVICE_SAMPLING_DISABLED": "1"}
    result = place.run("compile", environ=environ, dtype="bfloat16", batch_size=4)
    assert result["neuron_config"]["neuron_config"]["on_device_generation"] is None
    assert result["neuron_config"]["amp"] == "bf16"
    assert len(result["neffs"]) == 2


def test_embeddings_on_the_device_save_weights_too(place: Place) -> None:
    result = place.run("compile", neuron_config={"on_device_embedding": True})
    layers = {f"decoder_layer_{number}.safetensors" for number in (0, 1)}
    assert {*layers, "DecoderLMHead.safetensors", "config.json"} < set(result["files"])


def test_a_field_that_it_does_not_know(place: Place) -> None:
    with pytest.raises(CompileError, match="no_such_field"):
        place.run("compile", neuron_config={"no_such_field": 1})


def test_quantised_weights_are_tiled(place: Place) -> None:
    """As vLLM asks for them; a model as small as this one does not fill a tile."""
    with pytest.raises(CompileError, match="divisible by 128"):
        place.run("compile", quantization="neuron_quant", environ={"NEURON_QUANT_DTYPE": "s8"})


def test_settings_are_kept_as_plain_data(place: Place) -> None:
    result = place.run("compile")
    saved = json.loads((place.output / "neuron_config.json").read_text())
    assert saved == result["neuron_config"]
