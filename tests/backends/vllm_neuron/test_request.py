"""From a request to vLLM's options, and what is wrong with some."""

from __future__ import annotations

from typing import Any

import pytest

from neuron_artifacts.backends.vllm_neuron.request import (
    NEURON_OPTIONS,
    VLLM_OPTIONS,
    NativeRequest,
    check_request,
    make_request,
)
from neuron_artifacts.errors import SpecError
from neuron_artifacts.spec import resolve_spec

CONFIG = {"max_position_embeddings": 4096, "torch_dtype": "bfloat16"}


def request(**flags: Any) -> NativeRequest:
    spec = resolve_spec({"model": "m", "backend": "vllm-neuron", **flags}, environ={})
    return make_request(spec, CONFIG)


def options(**flags: Any) -> dict[str, Any]:
    made = request(**flags).options("m")
    neuron: dict[str, Any] = made.pop("additional_config")["neuron_config"]
    return {**made, **neuron}


def test_defaults_are_written_out() -> None:
    """vLLM's own are others for LLM than for its server."""
    assert options(batch_size=6) == {
        "model": "m", "tensor_parallel_size": 1, "max_num_seqs": 6, "max_model_len": 2048,
        "dtype": "bfloat16", "max_num_batched_tokens": 2048,
        "num_batched_tokens_buckets": [128, 256, 512, 1024, 2048],
        "num_seqs_buckets": [1, 2, 4, 6],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"seq_len": 100}, {"max_num_batched_tokens": 100, "num_batched_tokens_buckets": [100]}),
        (
            {"max_context_length": 512},
            {"max_num_batched_tokens": 512, "num_batched_tokens_buckets": [128, 256, 512]},
        ),
        (
            {"context_encoding_buckets": "256,1024"},
            {"max_num_batched_tokens": 1024, "num_batched_tokens_buckets": [256, 1024]},
        ),
        (
            {"override_neuron_config": {"num_batched_tokens_buckets": [512]}},
            {"max_num_batched_tokens": 512, "num_batched_tokens_buckets": [512]},
        ),
        (
            {"override_neuron_config": {"enable_bucketing": False}, "batch_size": 4},
            {"num_batched_tokens_buckets": [2048], "num_seqs_buckets": [4]},
        ),
        (
            {"token_generation_buckets": "512,1024,2048"},
            {"decode_context_length_buckets": [512, 1024]},
        ),
        ({"token_generation_buckets": "2048"}, {"decode_context_length_buckets": None}),
        (
            {"override_neuron_config": {"block_size": 32, "on_device_sampling_config": {}}},
            {"block_size": 32, "on_device_sampling_config": {}},
        ),
        ({"torch_dtype": "float32"}, {"dtype": "float32"}),
    ],
)
def test_options(flags: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = options(**flags)
    assert {name: made.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"speculative_model": "d", "num_speculative_tokens": 4}, "no speculation"),
        ({"vllm_loader": "vllm-main"}, "vllm_loader"),
    ],
)
def test_what_means_nothing_is_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        request(**flags)


def test_a_model_without_a_length_needs_one() -> None:
    spec = resolve_spec({"model": "m", "backend": "vllm-neuron"}, environ={})
    with pytest.raises(SpecError, match="max_position_embeddings"):
        make_request(spec, {})


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ({}, None),
        ({"num_batched_tokens_buckets": [128, 1024], "max_num_batched_tokens": 2048},
         "num_batched_tokens_buckets must end at 2048, and ends at 1024"),
        ({"num_seqs_buckets": [1, 2]}, "num_seqs_buckets must end at 4, and ends at 2"),
        ({"num_seqs_buckets": [4, 4]}, "must ascend"),
        ({"num_seqs_buckets": []}, "must be a list"),
        ({"num_seqs_buckets": [0, 4]}, "positive"),
        ({"num_seqs_buckets": [True, 4]}, "whole numbers"),
        ({"decode_context_length_buckets": [256, 512]}, None),
        ({"decode_context_length_buckets": [2048]}, "must stay below max_model_len 2048"),
        ({"decode_context_length_buckets": [256, 300]}, "multiples of 128, and 300"),
        ({"kv_segment_size_buckets": [2048], "num_batched_tokens_buckets": [2048]}, None),
        ({"kv_segment_size_buckets": [2048]}, "must equal num_batched_tokens_buckets"),
        ({"kv_segment_size_buckets": [256]}, "256 is not"),
        ({"tp_degree": 3}, "no power of two"),
    ],
)  # fmt: skip
def test_preflight(override: dict[str, Any], problem: str | None) -> None:
    found = list(check_request(request(batch_size=4, override_neuron_config=override)))
    assert len(found) == (problem is not None)
    assert not found or problem in found[0].message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_batched_token_buckets", "did you mean 'num_batched_tokens_buckets'?"),
        ("prefix_caching", "did you mean 'enable_prefix_caching'?"),
        ("fused_qkv", "--skip-preflight"),
    ],
)
def test_names_that_vllm_neuron_has_not(name: str, hint: str) -> None:
    (found,) = check_request(request(override_neuron_config={name: 1}))
    assert (found.severity, found.rule) == ("error", "unknown-field")
    assert repr(name) in found.message
    assert hint in (found.hint or "")


def test_names_that_it_has() -> None:
    names = dict.fromkeys((*VLLM_OPTIONS, *NEURON_OPTIONS))
    made = request(override_neuron_config={**names, "max_num_batched_tokens": 128})
    assert [found for found in check_request(made) if found.rule == "unknown-field"] == []
