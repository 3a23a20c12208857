"""What each loader generation passes to NeuronConfig."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.levels import level_of
from neuron_artifacts.backends.nxdi.loaders import (
    LOADERS,
    Speculation,
    VllmArguments,
    draft_fields,
    effective_block_size,
    neuron_arguments,
    resolve_dtype,
)
from neuron_artifacts.errors import NeuronArtifactsError, SpecError

PLAIN = VllmArguments(2, 4, 512, "bfloat16")
SPECULATING = replace(PLAIN, speculation=Speculation("draft", 5))
PREFIX = {"is_prefix_caching": True, "is_block_kv_layout": True}


@pytest.mark.parametrize("loader", LOADERS)
def test_common_arguments(loader: str) -> None:
    kwargs = neuron_arguments(loader, PLAIN, {})
    assert kwargs["tp_degree"] == 2
    assert kwargs["batch_size"] == 4
    assert kwargs["seq_len"] == kwargs["max_context_length"] == 512
    assert kwargs["enable_bucketing"] is True
    assert kwargs["padding_side"] == "right"
    assert kwargs["on_device_sampling_config"] == {"dynamic": True, "deterministic": False}


@pytest.mark.parametrize(
    ("loader", "one_sequence", "sequence_parallel"),
    [
        ("aws-fork-2.22", False, None),
        ("aws-fork-2.23", False, True),
        ("aws-fork-2.24", False, None),
        ("vllm-main", True, True),
        ("vllm-neuron-0.2", False, None),
        ("vllm-neuron-0.5", False, None),
    ],
)
def test_where_the_generations_differ(
    loader: str, one_sequence: bool, sequence_parallel: bool | None
) -> None:
    kwargs = neuron_arguments(loader, replace(PLAIN, max_num_seqs=1), {})
    assert kwargs["is_continuous_batching"] is one_sequence
    assert kwargs.get("sequence_parallel_enabled") is sequence_parallel


def test_speculation_of_the_forks_has_its_own_defaults() -> None:
    for loader in LOADERS[:4]:
        kwargs = neuron_arguments(loader, SPECULATING, {})
        assert "padding_side" not in kwargs
        assert kwargs["on_device_sampling_config"] == {"top_k": 1, "do_sample": False}
        assert ("ctx_batch_size" in kwargs) == (loader in ("aws-fork-2.24", "vllm-main"))


def test_eagle_comes_from_the_method_in_the_plugin_only() -> None:
    eagle = replace(PLAIN, speculation=Speculation("draft", 5, "eagle"))
    takes = [x for x in LOADERS if neuron_arguments(x, eagle, {}).get("enable_eagle_speculation")]
    assert takes == ["vllm-neuron-0.2", "vllm-neuron-0.5"]


@pytest.mark.parametrize(
    ("loader", "arguments", "override", "expected"),
    [
        ("aws-fork-2.24", {}, {}, {"pa_num_blocks": 4, "pa_block_size": 512}),
        ("aws-fork-2.24", {"block_size": 32}, {}, {"pa_num_blocks": 4, "pa_block_size": 512}),
        ("aws-fork-2.24", {"block_size": 500, "enable_prefix_caching": True}, PREFIX,
         {"pa_num_blocks": 8, "pa_block_size": 500}),
        ("aws-fork-2.24", {"block_size": 32}, {"is_block_kv_layout": True},
         {"pa_num_blocks": 64, "pa_block_size": 32}),
        ("vllm-neuron-0.2", {"block_size": 32}, {}, {"pa_num_blocks": 4, "pa_block_size": 512}),
        ("vllm-neuron-0.2", {"block_size": 32, "enable_prefix_caching": True}, {},
         {"pa_num_blocks": 64, "pa_block_size": 32, "is_prefix_caching": True}),
        ("vllm-neuron-0.2", {"num_gpu_blocks_override": 4}, {}, {"pa_num_blocks": 5}),
        ("vllm-neuron-0.2",
         {"block_size": 32, "enable_prefix_caching": True, "num_gpu_blocks_override": 64},
         {"pa_num_blocks": 64}, {"pa_num_blocks": 65}),
        ("vllm-neuron-0.5", {"max_prompt_length": 256}, {}, {"max_context_length": 256}),
        ("vllm-neuron-0.2", {}, {"quantized": True, "quantized_checkpoints_path": "q"},
         {"quantization_type": "per_tensor_symmetric", "quantization_dtype": "int8"}),
    ],
)  # fmt: skip
def test_blocks_and_overrides(
    loader: str, arguments: dict[str, Any], override: dict[str, Any], expected: dict[str, Any]
) -> None:
    kwargs = neuron_arguments(loader, replace(PLAIN, **arguments), override)
    assert {name: kwargs[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("loader", "arguments", "override"),
    [
        ("aws-fork-2.24", {"block_size": 32, "enable_prefix_caching": True}, {}),
        ("aws-fork-2.24", {"enable_prefix_caching": True}, PREFIX),
        ("vllm-neuron-0.2", {"enable_prefix_caching": True}, {}),
        ("vllm-neuron-0.2", {"block_size": 500, "enable_prefix_caching": True}, {}),
        ("vllm-neuron-0.2", {"block_size": 32, "enable_prefix_caching": True},
         {"pa_num_blocks": 64}),
        ("vllm-neuron-0.2",
         {"block_size": 32, "enable_prefix_caching": True, "num_gpu_blocks_override": 63}, {}),
        ("vllm-neuron-0.2", {"max_prompt_length": 128}, {}),
        ("vllm-neuron-0.5", {"max_prompt_length": 128}, {"max_context_length": 256}),
        ("vllm-main", {"max_prompt_length": 4}, {}),
    ],
)  # fmt: skip
def test_what_the_loaders_refuse(
    loader: str, arguments: dict[str, Any], override: dict[str, Any]
) -> None:
    with pytest.raises(SpecError):
        neuron_arguments(loader, replace(PLAIN, **arguments), override)


def test_block_size_without_a_layout_is_the_whole_sequence() -> None:
    asked = replace(PLAIN, block_size=32)
    assert {effective_block_size(loader, asked, {}) for loader in LOADERS} == {512}


@pytest.mark.parametrize("loader", LOADERS)
def test_drafts(loader: str) -> None:
    target = {
        "speculation_length": 5, "enable_fused_speculation": True, "modules_to_not_convert": None,
        "enable_eagle_speculation": False, "draft_model_modules_to_not_convert": ["fc"],
        "sequence_parallel_enabled": True,
    }  # fmt: skip
    draft = draft_fields(loader, target, {})
    assert draft["speculation_length"] == 0
    assert draft["modules_to_not_convert"] == ["fc"]
    assert ("trace_tokengen_model" in draft) == (not loader.startswith("vllm-neuron"))
    overrides = {"draft_overrides": {"sequence_parallel_enabled": "x"}}
    eagle = draft_fields(loader, {**target, "enable_eagle_speculation": True}, {})
    assert (eagle["speculation_length"], eagle["is_eagle_draft"]) == (5, True)
    overridden = draft_fields(loader, target, overrides)["sequence_parallel_enabled"]
    assert (overridden == "x") == (loader == "vllm-neuron-0.5")
    assert eagle["sequence_parallel_enabled"] is loader.startswith("vllm-neuron")


@pytest.mark.parametrize(
    ("loader", "sdk", "config", "expected"),
    [
        ("vllm-main", "2.26", {"torch_dtype": "bfloat16"}, "bfloat16"),
        ("vllm-main", "2.27", {"dtype": "float16"}, "float16"),
        ("vllm-main", "2.26", {"dtype": "float16"}, None),
        ("vllm-neuron-0.5", "2.29", {"dtype": "float16", "torch_dtype": "bfloat16"}, "float16"),
        ("vllm-neuron-0.2", "2.26", {"dtype": "float16", "torch_dtype": "bfloat16"}, "bfloat16"),
        ("aws-fork-2.24", "2.24", {"dtype": "bfloat16"}, "float16"),
        ("aws-fork-2.24", "2.24", {"torch_dtype": "float32"}, "float16"),
        ("aws-fork-2.24", "2.24", {}, "float16"),
        ("vllm-main", "2.24", {"torch_dtype": "float32"}, "bfloat16"),
        ("vllm-neuron-0.2", "2.26", {}, None),
        ("vllm-neuron-0.2", "2.26", {"torch_dtype": "float64"}, None),
    ],
)
def test_auto_dtype(loader: str, sdk: str, config: dict[str, Any], expected: str | None) -> None:
    level = level_of(sdk)
    if expected is None:
        with pytest.raises(NeuronArtifactsError):
            resolve_dtype(loader, "auto", config, level)
    else:
        assert resolve_dtype(loader, "auto", config, level) == expected
    assert resolve_dtype(loader, "float32", config, level) == "float32"


def test_names_of_dtypes() -> None:
    named = {n: resolve_dtype("vllm-main", n, {}, None) for n in ("half", "float", "bfloat16")}
    assert named == {"half": "float16", "float": "float32", "bfloat16": "bfloat16"}
    with pytest.raises(SpecError):
        resolve_dtype("vllm-main", "int8", {}, None)
    assert resolve_dtype("vllm-main", "auto", {"dtype": "float16"}, None) == "float16"
