"""The nxdi worker against the sources of NxD Inference itself; only what is closed is a double.

Skipped unless these are set (CONTRIBUTING, *Against the real sources*):

NEURON_ARTIFACTS_NXDI_PATHS
    Folders for ``sys.path``, separated as ``PATH`` is: ``src`` of a checkout of
    neuronx-distributed-inference, ``src`` of the neuronx-distributed of the same SDK, and where
    torch, safetensors, einops and the transformers of that release are installed.
NEURON_ARTIFACTS_NXDI_RELEASE
    The release that is checked out, such as ``0.7.14366``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.identity import list_graphs
from neuron_artifacts.errors import CompileError
from neuron_artifacts.worker import WorkerEvent, run_worker
from tests.backends.nxdi.sites import WORKER
from tests.doubles.environments import DOUBLES
from tests.models import GOLDEN
from tests.toolchain.environments import make_environment, site_packages

PATHS = os.environ.get("NEURON_ARTIFACTS_NXDI_PATHS", "")
RELEASE = os.environ.get("NEURON_ARTIFACTS_NXDI_RELEASE", "")

pytestmark = pytest.mark.skipif(not (PATHS and RELEASE), reason="no sources of NxD Inference")

FIELDS: dict[str, Any] = {
    "tp_degree": 2, "seq_len": 256, "batch_size": 2, "ctx_batch_size": 1, "enable_bucketing": True,
    "is_continuous_batching": True, "torch_dtype": "float32", "save_sharded_checkpoint": True,
}  # fmt: skip
SAMPLING = {"on_device_sampling_config": {"dynamic": True, "deterministic": False}}
DRAFT = {**SAMPLING, "enable_fused_speculation": True, "speculation_length": 4}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sampling": SAMPLING,
    "buckets": {"max_context_length": 128, "context_encoding_buckets": [64, 128]},
    "one bucket": {"enable_bucketing": False},
    "second node": {"tp_degree": 4, "world_size": 4, "local_ranks_size": 2, "start_rank_id": 2},
    "unsharded": {"save_sharded_checkpoint": False},
    "quantised": {"quantized": True, "quantization_type": "per_channel_symmetric"},
    "unfused": {"speculation_length": 4},
    "draft": DRAFT,
}  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nxdi")
    python = make_environment(folder, {"neuronx-distributed-inference": RELEASE})
    paths = [str(DOUBLES / "closed"), *PATHS.split(os.pathsep)]
    (site_packages(folder) / "real.pth").write_text("\n".join([*paths, "import closed_parts\n"]))
    return python


class Place:
    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.output = folder / "output"
        self.events: list[WorkerEvent] = []

    def run(self, action: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return run_worker(
            self.python, WORKER, {"action": action, "output": str(self.output), **request},
            directory=self.folder / "job", observe=self.events.append,
            environ={**os.environ, "NEURON_PLATFORM_TARGET_OVERRIDE": "trn1"},
        )  # fmt: skip

    def shards(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.output / "weights").glob("*")}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_the_worker_against_the_real_code(
    python: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    place = Place(python, tmp_path)
    model = str(GOLDEN / "llama-gqa-tied-llama3" / "model")
    request: dict[str, Any] = {"model": model, "neuron_config": {**FIELDS, **fields}}
    if fields.get("quantized"):
        request["neuron_config"]["quantized_checkpoints_path"] = str(tmp_path / "int8")
        request["quantize"] = True
    if fields.get("enable_fused_speculation"):
        request["draft"] = {"model": model, "name_or_path": "org/draft"}
    told = place.run("hash", {**request, "graphs": True})
    result = place.run("compile", request)
    assert result["md5"] == result["saved_md5"] == told["md5"]
    assert result["graphs"] == told["graphs"]
    known = json.loads(result["document"])["neuron_config"]
    listed = [(graph["phase"].removesuffix("_model"), graph["bucket"]) for graph in told["graphs"]]
    assert set(listed) == set(list_graphs(known))
    states = [event.fields["state"] for event in place.events if event.name == "graph"]
    assert states.count("compiled") == len(listed)
    shards = place.shards()
    assert len(shards) == (known["local_ranks_size"] if known["save_sharded_checkpoint"] else 0)
    for path in (place.output / "weights").glob("*"):
        path.unlink()
    place.run("shard", {**request, "quantize": False})
    assert place.shards() == shards
    assert place.run("validate", {"model": str(place.output)})["document"]


@pytest.mark.parametrize(
    "fields", [{"no_such_field": 1}, {"on_device_sampling_config": {"topk": 1}}]
)
def test_what_the_library_would_drop_is_refused(
    python: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    model = str(GOLDEN / "llama-gqa-tied-llama3" / "model")
    with pytest.raises(CompileError, match="has no argument"):
        Place(python, tmp_path).run(
            "compile", {"model": model, "neuron_config": {**FIELDS, **fields}}
        )
