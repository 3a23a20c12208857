"""What we print for vLLM against what each vLLM for Neuron takes and reads.

The lists in ``tests/data/vllm_surface`` were made by ``scripts/make_vllm_surface.py`` from the
sources of every generation.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.vllm_neuron import worker as native
from neuron_artifacts.backends.vllm_neuron.request import SHAPING_VARIABLES, VLLM_OPTIONS
from neuron_artifacts.runtime.vllm.recipes import Recipe, Site, make_recipe
from neuron_artifacts.runtime.vllm.served import GENERATIONS
from tests.runtime.vllm.manifests import make_served

SURFACE: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "vllm_surface" / "surface.json").read_text()
)
VLLM = {
    "vllm-neuron-0.2": "vllm-0.11.0",  # requirements/core.txt of the plugin
    "vllm-neuron-0.5": "vllm-0.16.0",
    "vllm-neuron-0.21": "vllm-0.21.0",
    "optimum": "vllm-0.11.0",
}
"""The vLLM below each plugin; a fork is one itself."""
CLOSED = {
    "NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_ROOT_COMM_ID",  # the runtime
    "XLA_HANDLE_SPECIAL_SCALAR", "UNSAFE_FP8FNCAST",  # torch-neuronx; set by NxD Inference's demo
    "MASTER_ADDR", "MASTER_PORT",  # torch's rendezvous by env://
    "NEURON_LOCAL_TP",  # as the fork's launcher sets it (multi_node/launch_script.py:111)
}  # fmt: skip
"""Read where no source is public, or by torch."""

COPIED = {
    "NEURON_LIBTORCH_CACHE_ROOT",
    "NEURON_LIBTORCH_CPU_COMPILE",
    "NEURON_LIBTORCH_CPU_MODE",
    "VLLM_NEURON_ASSERT_CACHE_HIT",
    "VLLM_NEURON_BACKEND",
    "VLLM_NEURON_BARRIER_TIMEOUT",
    "VLLM_NEURON_DISABLE_COMPILE_CACHE",
    "VLLM_NEURON_DISABLE_GRAPH_CAPTURE_BACKEND",
    "VLLM_NEURON_PARALLEL_COMPILE_WORKERS",
    "VLLM_NEURON_REMOTE_CACHE",
    "VLLM_NEURON_SWITCH_CC",
}
"""What no guide names: ``vllm_neuron/envs.py`` of public copies of vllm-neuron 0.21, and what later
ones set for libtorch-neuronx-lite."""
IGNORED = {"VLLM_NEURON_FRAMEWORK"}
"""What the plugins do not read, since they have one framework; AWS's guides set it all the same."""

CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocks": {
        "serve": {"override_neuron_config": {
            "enable_prefix_caching": True, "block_size": 32, "num_gpu_blocks_override": 64,
        }},
        "fields": {"is_block_kv_layout": True, "is_prefix_caching": True},
    },
    "speculation": {
        "serve": {"speculation": {"model": "/draft", "num_tokens": 5, "method": "eagle"}},
        "fields": {"speculation_length": 5},
    },
    "lora": {
        "serve": {"override_neuron_config": {
            "lora_modules": [{"name": "sql", "path": "/sql"}], "max_loras": 2,
        }},
        "fields": {"lora_config": {"max_lora_rank": 16}},
    },
    "fp8 on two cores": {
        "fields": {
            "logical_nc_config": 2, "on_device_sampling_config": None, "quantized": True,
            "quantization_dtype": "f8e4m3",
        },
    },
    "short prompts": {"max_context_length": 512},
}  # fmt: skip
NXDI = [name for name in GENERATIONS if name not in ("optimum", "vllm-neuron-0.21")]


def read(*names: str, kind: str = "variables") -> set[str]:
    return {each for name in names for each in SURFACE[name][kind]}


def check(made: Recipe) -> None:
    sources = [made.loader, *([VLLM[made.loader]] if made.loader in VLLM else [])]
    flags = {part for part in made.arguments if part.startswith("--")}
    assert flags <= read(*sources, kind="flags")
    told = {*made.environ, *made.unset}
    unread = told - read(*sources, "nxdi", "nxd") - CLOSED
    if made.loader == "vllm-neuron-0.21":
        unread -= COPIED
    assert unread == (IGNORED if made.loader in ("vllm-neuron-0.2", "vllm-neuron-0.5") else set())


@pytest.mark.parametrize("loader", NXDI)
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_nxd_inference(loader: str, changes: dict[str, Any]) -> None:
    check(make_recipe(make_served(**changes), Path("/a"), loader, Site("::", 80)))


@pytest.mark.parametrize("loader", [name for name in NXDI if name.startswith("aws-fork-")])
def test_several_nodes(loader: str) -> None:
    served = make_served(
        tp_degree=64, fields={"world_size": 64}, shards=range(64),
        layout={"start_rank_id": 32, "local_ranks_size": 32},
    )  # fmt: skip
    check(make_recipe(served, Path("/a"), loader, Site(rank=0, master="10.0.0.1")))


def test_optimum() -> None:
    served = make_served(backend="optimum", serve={"loader": "optimum"})
    check(make_recipe(served, Path("/a"), None, Site("::", 80)))


def test_vllm_neuron() -> None:
    arguments = dict.fromkeys(VLLM_OPTIONS, 1) | {"enable_prefix_caching": False}
    served = make_served(backend="vllm-neuron", serve={
        "vllm_arguments": arguments, "override_neuron_config": {"num_seqs_buckets": [1]},
    })  # fmt: skip
    check(make_recipe(served, Path("/a"), None, Site("::", 80)))


def test_the_worker_of_vllm_neuron_and_the_key() -> None:
    told = {*native._MISLEADING, *native._PATIENCE, *native._WORKERS, *native._ROOTS}
    assert told | set(SHAPING_VARIABLES) <= read("vllm-neuron-0.21", "vllm-0.21.0") | COPIED


def test_what_copies_name_is_named_by_no_guide() -> None:
    assert not COPIED & read("vllm-neuron-0.21")


def test_each_generation_has_flags_that_others_lack() -> None:
    """Else the lists would let everything through."""
    for older, newer in pairwise(["vllm-0.11.0", "vllm-0.16.0", "vllm-0.21.0"]):
        assert read(newer, kind="flags") - read(older, kind="flags")
    assert "--speculative-model" not in read("vllm-main", *VLLM.values(), kind="flags")
    assert "--device" not in read(*VLLM.values(), kind="flags")
