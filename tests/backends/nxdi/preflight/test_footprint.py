"""Bytes of a core against sums done by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_artifacts.backends.nxdi.families import FAMILIES
from neuron_artifacts.backends.nxdi.levels import Host, level_of
from neuron_artifacts.backends.nxdi.neuron_config import fill_in_neuron_config
from neuron_artifacts.backends.nxdi.preflight.footprint import Cache, Weights, cache_of, weights_of
from neuron_artifacts.backends.nxdi.preflight.subject import Shape, read_shape
from neuron_artifacts.model.safetensors_header import TensorInfo
from tests.backends.nxdi.preflight.requests import BASE, shapes, snapshot

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 4096,
}  # fmt: skip


def fields(sdk: str = "2.29", **arguments: Any) -> dict[str, Any]:
    return fill_in_neuron_config(
        {**BASE, **arguments}, family=FAMILIES["LlamaForCausalLM"], level=level_of(sdk),
        host=Host("trn1"),
    )  # fmt: skip


def shape(**config: Any) -> Shape:
    read = read_shape({**SMALL, **config})
    assert read is not None
    return read


def cache(sdk: str = "2.29", config: dict[str, Any] | None = None, **arguments: Any) -> Cache:
    return cache_of(shape(**(config or {})), fields(sdk, **arguments), level_of(sdk))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"tp_degree": 1}, (1, 1024, 2, 16)),
        ({"tp_degree": 2}, (1, 1024, 1, 16)),
        ({"tp_degree": 8, "batch_size": 4}, (4, 1024, 1, 16)),
        ({"tp_degree": 2, "torch_dtype": "float32"}, (1, 1024, 1, 32)),
        ({"tp_degree": 2, "kv_cache_quant": True}, (1, 1024, 1, 8)),
        ({"attention_dtype": "float32", "cast_type": "as-declared"}, (1, 1024, 1, 32)),
        ({"apply_seq_ids_mask": True}, (1, 1152, 1, 16)),
        # The cores of one head share its positions, and each keeps a reserve of 128.
        ({"tp_degree": 8, "flash_decoding_enabled": True}, (1, 256 + 128, 1, 16)),
        ({"is_prefix_caching": True, "is_block_kv_layout": True, "pa_block_size": 32,
          "pa_num_blocks": 64}, (65, 32, 1, 16)),
        ({"tp_degree": 8, "attention_dp_degree": 2, "batch_size": 4,
          "is_continuous_batching": True}, (3, 1024, 1, 16)),
    ],
)  # fmt: skip
def test_a_cache(arguments: dict[str, Any], expected: tuple[int, int, int, int]) -> None:
    found = cache(**arguments)
    assert (found.slots, found.length, found.kv_heads, found.bits) == expected
    slots, length, heads, bits = expected
    assert found.total == 2 * 3 * slots * length * heads * 8 * bits // 8


def test_a_sliding_window_bounds_the_cache_where_the_level_knows_it() -> None:
    window = {"sliding_window": 512}
    assert cache("2.29", window).length == 512
    assert cache("2.26", window).length == 1024
    assert cache("2.29", {**window, "model_type": "qwen2"}).length == 1024


def weights(config: dict[str, Any] | None = None, dtype: str = "BF16", **arguments: Any) -> Weights:
    config = {**SMALL, **(config or {})}
    tensors = snapshot(config, dtype=dtype).all_tensors.values()
    return weights_of(tensors, shape(**config), fields(**arguments))


LAYER_MATRICES = 64 * 64 + 2 * 16 * 64 + 64 * 64 + 3 * 160 * 64
VECTORS = 3 * 2 * 64 + 64
TABLE = 320 * 64
ELEMENTS = 3 * LAYER_MATRICES + VECTORS + 2 * TABLE


def test_matrices_are_divided_and_vectors_are_not() -> None:
    found = weights(tp_degree=2)
    assert found.stored == found.loaded == 2 * ELEMENTS
    assert found.per_core == 2 * ((ELEMENTS - VECTORS) // 2 + VECTORS)


def test_key_value_heads_count_as_often_as_they_are_kept() -> None:
    replicated = 3 * 2 * 16 * 64  # two matrices of each layer, of 2 heads, on 8 cores
    found = weights(tp_degree=8)
    matrices = ELEMENTS - VECTORS - replicated
    assert found.per_core == 2 * (matrices // 8 + replicated * 4 // 8 + VECTORS)


@pytest.mark.parametrize(
    ("dtype", "arguments", "width"),
    [
        ("BF16", {"torch_dtype": "float32"}, 4),
        ("F32", {"torch_dtype": "bfloat16"}, 2),
        ("F32", {"cast_type": "as-declared"}, 4),
        ("F8_E4M3", {}, 1),
    ],
)
def test_weights_take_the_width_they_are_cast_to(
    dtype: str, arguments: dict[str, Any], width: int
) -> None:
    assert weights(dtype=dtype, **arguments).loaded == width * ELEMENTS


def test_quantised_weights_are_narrow_except_what_is_kept() -> None:
    kept = {"quantized": True, "quantized_checkpoints_path": "x"}
    whole = weights(**kept)
    assert whole.loaded == (ELEMENTS - VECTORS - TABLE) + 2 * (VECTORS + TABLE)
    some = weights(**kept, modules_to_not_convert=["lm_head", "layers.1.mlp"])
    assert some.loaded - whole.loaded == TABLE + 3 * 160 * 64


def test_tied_embeddings_are_kept_twice() -> None:
    tied = weights({"tie_word_embeddings": True}, tp_degree=1)
    assert tied.stored == 2 * (ELEMENTS - TABLE)
    assert tied.loaded == tied.per_core == 2 * ELEMENTS


def test_experts_are_divided_and_their_router_is_not() -> None:
    config = {"num_local_experts": 4, "model_type": "mixtral"}
    found = weights(config, tp_degree=2)
    router = 3 * 4 * 64
    matrices = 3 * (LAYER_MATRICES + 3 * 3 * 160 * 64) + 2 * TABLE
    assert found.per_core == 2 * (matrices // 2 + VECTORS + router)


def test_prefilling_and_decoding_may_have_attention_weights_of_their_own() -> None:
    plain = weights(tp_degree=8)
    both = weights(tp_degree=8, cp_degree=4)
    attention = 3 * (2 * 64 * 64 + 2 * 16 * 64)
    once = 3 * (2 * 64 * 64 + 4 * 2 * 16 * 64) // 8  # 2 heads on 8 cores: kept 4 times
    # Prefilling divides by 2, where the 2 key-value heads need no copies.
    assert both.per_core - plain.per_core == 2 * (attention // 2)
    assert plain.per_core == 2 * (once + (ELEMENTS - VECTORS - attention) // 8 + VECTORS)


@given(st.sampled_from([1, 2, 3, 4, 8, 16, 32]), st.sampled_from([2, 4, 8]))
def test_all_cores_together_hold_the_whole_model(degree: int, kv_heads: int) -> None:
    config = {**SMALL, "num_key_value_heads": kv_heads}
    found = weights(config, tp_degree=degree)
    assert found.per_core * degree >= found.loaded
    tensors = [TensorInfo(name, "BF16", size, 0, 0) for name, size in shapes(config).items()]
    assert weights_of(tensors, shape(**config), fields(tp_degree=degree)).loaded == found.loaded
