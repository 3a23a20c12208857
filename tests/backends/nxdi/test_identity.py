"""What enters the key of a Neuron artifact, and what must not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.identity import (
    compiler_environment,
    graphs_document,
    list_graphs,
    weights_document,
)
from neuron_artifacts.key import digest_of, make_key
from neuron_artifacts.model import resolve_model
from tests.models import copy_model

FIELDS: dict[str, Any] = {
    "tp_degree": 2, "enable_bucketing": True, "max_context_length": 512, "max_length": 1024,
    "start_rank_id": 0, "local_ranks_size": 2, "quantize_clamp_bound": math.inf,
    "quantized_checkpoints_path": "/somewhere/q",
    "lora_config": {"max_loras": 2, "lora_ckpt_paths": {"b": "/here/b", "a": "/here/a"}},
}  # fmt: skip
CALL: dict[str, Any] = {
    "backend": "nxdi", "target": "trn1", "toolchain": {"neuronx-cc": "2.16"},
    "config": {"hidden_size": 8, "_name_or_path": "x", "text_config": {"dtype": "a", "n": 1}},
    "neuron_config": FIELDS, "environ": {},
}  # fmt: skip


def digest(**changes: Any) -> str:
    return digest_of(graphs_document(**{**CALL, **changes}))


@pytest.mark.parametrize(
    ("same", "changes"),
    [
        (True, {"neuron_config": {**FIELDS, "start_rank_id": 2}}),
        (True, {"neuron_config": {**FIELDS, "save_sharded_checkpoint": True}}),
        (True, {"neuron_config": {**FIELDS, "quantized_checkpoints_path": "/other"}}),
        (True, {"config": {**CALL["config"], "_name_or_path": "y"}}),
        (True, {"config": {**CALL["config"], "text_config": {"dtype": "b", "n": 1}}}),
        (True, {"environ": {"HOME": "/x", "NEURON_CC_FLAGS": "--cache_dir=/c"}}),
        (False, {"environ": {"NEURON_CC_FLAGS": "-O3"}}),
        (False, {"neuron_config": {**FIELDS, "tp_degree": 4}}),
        (False, {"neuron_config": {**FIELDS, "quantize_clamp_bound": 1.0}}),
        (False, {"config": {**CALL["config"], "text_config": {"n": 2}}}),
        (False, {"target": "trn2"}),
        (False, {"toolchain": {"neuronx-cc": "2.17"}}),
        (False, {"draft": {"hidden_size": 4}}),
        (False, {"neuron_config": {**FIELDS, "lora_config": {"lora_ckpt_paths": {"a": "/x"}}}}),
    ],
)
def test_the_graphs_digest_follows_what_shapes_a_graph(same: bool, changes: dict[str, Any]) -> None:
    assert (digest(**changes) == digest()) == same


def test_the_place_of_an_adapter_is_in_no_key(tmp_path: Any) -> None:
    moved = {**FIELDS, "lora_config": {"max_loras": 2, "lora_ckpt_paths": {"a": "1", "b": "2"}}}
    assert digest(neuron_config=moved) == digest()
    model = resolve_model(str(copy_model(tmp_path / "m")))
    weights = [
        weights_document(
            model, FIELDS, draft=None, inputs={"lora": {"a": {"adapter.safetensors": sha}}}
        )
        for sha in ("1", "2")
    ]
    assert make_key({}, weights[0]).key != make_key({}, weights[1]).key


def test_ranks_of_one_deployment_share_graphs_and_differ_in_weights(tmp_path: Any) -> None:
    model = resolve_model(str(copy_model(tmp_path / "m")))
    first = weights_document(model, FIELDS, draft=None, inputs={})
    second = weights_document(model, {**FIELDS, "start_rank_id": 2}, draft=None, inputs={})
    assert first != second
    assert first["files"] == second["files"]
    kept = {**FIELDS, "save_sharded_checkpoint": True}
    assert weights_document(model, kept, draft=None, inputs={}) != first
    drafted = weights_document(model, FIELDS, draft=model, inputs={})
    assert drafted["draft"] == first["files"]


def test_flags_that_only_steer_the_cache_are_left_out() -> None:
    environ = {"NEURON_CC_FLAGS": " -O1  --cache_dir=/x --no_cache --lnc=2 ", "PATH": "/bin"}
    assert compiler_environment(environ) == {"NEURON_CC_FLAGS": "-O1 --lnc=2"}
    assert compiler_environment({"NEURON_CC_FLAGS": "--no_cache"}) == {}


@pytest.mark.parametrize(
    ("changes", "phase", "context", "decoding"),
    [
        ({}, "token_generation", [128, 256, 512], [128, 256, 512, 1024]),
        ({"enable_bucketing": False}, "token_generation", [512], [1024]),
        ({"context_encoding_buckets": [64]}, "token_generation", [64], [128, 256, 512, 1024]),
        ({"speculation_length": 4}, "speculation", [128, 256, 512], [128, 256, 512, 1024]),
        (
            {"speculation_length": 4, "enable_fused_speculation": True},
            "fused_speculation", [128, 256, 512], [128, 256, 512, 1024],
        ),
        ({"is_medusa": True, "buckets": [99]}, "medusa_speculation", [128, 256, 512], [99]),
        (
            {"is_prefix_caching": True, "prefix_buckets": None},
            "token_generation", [512], [256, 512, 1024],
        ),
        (  # up to SDK 2.23
            {"is_prefix_caching": True},
            "token_generation", [128, 256, 512], [128, 256, 512, 1024],
        ),
        (
            {"chunked_prefill_config": {"kernel_q_tile_size": 128}, "max_context_length": 1000},
            "token_generation", [128, 512, 1024], [128, 256, 512, 1024],
        ),
        (
            {"chunked_prefill_config": {"kernel_q_tile_size": 512}},
            "token_generation", [512], [128, 256, 512, 1024],
        ),
        (
            {"chunked_prefill_config": {}, "context_encoding_buckets": [[128, 4], [256, 4]]},
            "token_generation", [128, 256], [128, 256, 512, 1024],
        ),
    ],
)  # fmt: skip
def test_the_graphs_are_those_nxdi_builds(
    changes: dict[str, Any], phase: str, context: list[int], decoding: list[int]
) -> None:
    graphs = list_graphs({**FIELDS, **changes})
    assert [b for p, b in graphs if p == "context_encoding"] == context
    assert [b for p, b in graphs if p == phase] == decoding
    assert len(graphs) == len(context) + len(decoding)


def test_sdk_2_21_generates_single_tokens_beside_speculation() -> None:
    """``trace_tokengen_model`` is no field of later levels."""
    fields = {**FIELDS, "trace_tokengen_model": True, "speculation_length": 4}
    assert [phase for phase, bucket in list_graphs(fields) if bucket == 1024] == [
        "token_generation", "speculation",
    ]  # fmt: skip
    fused = {**fields, "enable_fused_speculation": True}
    assert {phase for phase, _ in list_graphs(fused)} == {"context_encoding", "fused_speculation"}
