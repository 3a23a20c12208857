"""The tiny random models whose answers are committed under ``tests/data/golden``.

``config`` is ``config.json`` word for word, in the spelling of transformers 4 (``rope_theta``,
``rope_scaling``, ``torch_dtype``) or of transformers 5 (``rope_parameters``, ``dtype``,
``layer_types``): published checkpoints have either. Sizes are odd on purpose: a kernel that is
right only for multiples of its vector width must not pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One golden model.

    ``without`` lists overrides of ``config`` that take one feature away each; the generator draws
    weights until every one of them changes the answer, so that no golden passes a backend that
    ignores the feature.
    """

    name: str
    config: Config
    storage: str = "bfloat16"
    max_shard_size: str | None = None
    without: tuple[Config, ...] = field(default=())
    rotary_buffers: bool = False
    """Store the constant ``rotary_emb.inv_freq`` tensors that old Llama checkpoints carry."""


def _llama(**fields: Any) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **fields}


def _mistral(**fields: Any) -> dict[str, Any]:
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **fields}


def _qwen2(**fields: Any) -> dict[str, Any]:
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **fields}


def _qwen3(**fields: Any) -> dict[str, Any]:
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **fields}


def _sizes(
    hidden: int, intermediate: int, layers: int, heads: tuple[int, int], vocab: int
) -> dict[str, Any]:
    """The fields every model has; ``heads`` are query heads and key/value heads."""
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocab,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
    }


def _less(fields: Config, *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN_MSCALE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 16.0,
    "beta_slow": 0.5,
    "mscale": 2.0,
    "mscale_all_dim": 0.5,
}
_YARN_ATTENTION_FACTOR = {
    "rope_type": "yarn",
    "rope_theta": 100000.0,
    "factor": 6.0,
    "original_max_position_embeddings": 40,
    "attention_factor": 1.5,
    "beta_fast": 8.0,
    "beta_slow": 2.0,
    "truncate": False,
}

_LLAMA = (
    Case(
        "llama-gqa-tied-llama3",
        _llama(
            **_sizes(64, 96, 2, (4, 2), 160),
            head_dim=16,
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
        ),
        without=({"rope_scaling": None}, {"rope_theta": 10000.0}),
    ),
    Case(
        # The oldest spelling: no key/value heads, no head size, no rope scaling, no tying.
        "llama-mha-oldest",
        _llama(
            hidden_size=48,
            intermediate_size=100,
            num_hidden_layers=3,
            num_attention_heads=4,
            vocab_size=101,
            hidden_act="silu",
            max_position_embeddings=256,
            rms_norm_eps=1e-6,
            torch_dtype="float16",
        ),
        storage="float16",
        rotary_buffers=True,
    ),
    Case(
        "llama-mqa-biases-sharded",
        _llama(
            **_sizes(40, 56, 3, (4, 1), 113),
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            attention_bias=True,
            mlp_bias=True,
            torch_dtype="float32",
        ),
        storage="float32",
        max_shard_size="24KB",
        without=({"attention_bias": False}, {"mlp_bias": False}),
    ),
    Case(
        "llama-wide-heads-linear",
        _llama(
            **_sizes(32, 72, 2, (4, 2), 128),
            head_dim=24,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            rope_scaling={"type": "linear", "factor": 4.0},
            torch_dtype="bfloat16",
        ),
        max_shard_size="16KB",
        without=({"rope_scaling": None},),
    ),
    Case(
        "llama-yarn",
        _llama(
            **_sizes(48, 80, 2, (3, 3), 131),
            rms_norm_eps=1e-5,
            rope_parameters=_YARN,
            dtype="bfloat16",
        ),
        without=(
            {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
            {"rope_parameters": {**_YARN, "attention_factor": 1.0}},
        ),
    ),
    Case(
        "llama-narrow-heads-deep",
        _llama(
            **_sizes(36, 50, 4, (6, 2), 103),
            head_dim=6,
            rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
            tie_word_embeddings=False,
            dtype="float32",
        ),
        storage="float32",
        without=(
            {"rms_norm_eps": 1e-1},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        ),
    ),
)

_MISTRAL = (
    Case(
        "mistral-window",
        _mistral(
            **_sizes(64, 84, 2, (4, 2), 144),
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            sliding_window=24,
            tie_word_embeddings=False,
            torch_dtype="bfloat16",
        ),
        without=({"sliding_window": None}, {"sliding_window": 23}, {"sliding_window": 25}),
    ),
    Case(
        "mistral-no-window-sharded",
        _mistral(
            **_sizes(56, 88, 2, (4, 1), 150),
            head_dim=20,
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=None,
            tie_word_embeddings=False,
            torch_dtype="float16",
        ),
        storage="float16",
        max_shard_size="32KB",
        without=({"rope_theta": 10000.0},),
    ),
    Case(
        "mistral-window-shortest-tied",
        _mistral(
            **_sizes(36, 64, 3, (6, 3), 107),
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            sliding_window=7,
            tie_word_embeddings=True,
            torch_dtype="float32",
        ),
        storage="float32",
        without=({"sliding_window": None}, {"sliding_window": 6}, {"sliding_window": 8}),
    ),
    Case(
        "mistral-window-yarn-mscale",
        _mistral(
            **_sizes(48, 64, 2, (4, 2), 128),
            head_dim=16,
            rms_norm_eps=1e-5,
            rope_parameters=_YARN_MSCALE,
            sliding_window=32,
            tie_word_embeddings=False,
            dtype="bfloat16",
        ),
        without=(
            {"sliding_window": None},
            {"rope_parameters": _less(_YARN_MSCALE, "mscale", "mscale_all_dim")},
            {"rope_parameters": _less(_YARN_MSCALE, "beta_fast", "beta_slow")},
        ),
    ),
)

_QWEN2 = (
    Case(
        # A window that use_sliding_window switches off, as in every published Qwen2.5.
        "qwen2-tied-window-off",
        _qwen2(
            **_sizes(56, 76, 3, (7, 1), 151),
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            sliding_window=16,
            use_sliding_window=False,
            max_window_layers=0,
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
        ),
        without=({"use_sliding_window": True},),
    ),
    Case(
        "qwen2-window-from-layer-1",
        _qwen2(
            **_sizes(48, 84, 3, (4, 2), 137),
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            sliding_window=20,
            use_sliding_window=True,
            max_window_layers=1,
            tie_word_embeddings=False,
            torch_dtype="bfloat16",
        ),
        max_shard_size="40KB",
        without=(
            {"use_sliding_window": False},
            {"max_window_layers": 0},
            {"max_window_layers": 2},
        ),
    ),
    Case(
        "qwen2-window-by-layer-types",
        _qwen2(
            **_sizes(40, 60, 3, (5, 5), 109),
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            sliding_window=12,
            use_sliding_window=True,
            max_window_layers=3,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            tie_word_embeddings=False,
            dtype="float32",
        ),
        storage="float32",
        without=(
            {"layer_types": ["full_attention"] * 3},
            {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
            {"layer_types": ["sliding_attention"] * 3},
        ),
    ),
    Case(
        "qwen2-yarn-sharded",
        _qwen2(
            **_sizes(48, 68, 2, (2, 1), 149),
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            rope_scaling={
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            sliding_window=None,
            use_sliding_window=False,
            max_window_layers=2,
            tie_word_embeddings=False,
            torch_dtype="float16",
        ),
        storage="float16",
        max_shard_size="16KB",
        without=({"rope_scaling": None},),
    ),
)

_QWEN3 = (
    Case(
        "qwen3-tied",
        _qwen3(
            **_sizes(64, 72, 2, (4, 2), 160),
            head_dim=32,
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            sliding_window=None,
            use_sliding_window=False,
            max_window_layers=2,
            attention_bias=False,
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
        ),
        without=({"rope_theta": 10000.0},),
    ),
    Case(
        "qwen3-biases",
        _qwen3(
            **_sizes(40, 52, 2, (4, 4), 105),
            head_dim=14,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            use_sliding_window=False,
            attention_bias=True,
            tie_word_embeddings=False,
            torch_dtype="float32",
        ),
        storage="float32",
        max_shard_size="30KB",
        without=({"attention_bias": False},),
    ),
    Case(
        "qwen3-window-from-layer-2",
        _qwen3(
            **_sizes(48, 60, 4, (4, 1), 127),
            head_dim=12,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            sliding_window=11,
            use_sliding_window=True,
            max_window_layers=2,
            attention_bias=False,
            tie_word_embeddings=True,
            torch_dtype="bfloat16",
        ),
        without=(
            {"use_sliding_window": False},
            {"max_window_layers": 1},
            {"max_window_layers": 3},
        ),
    ),
    Case(
        "qwen3-yarn-attention-factor",
        _qwen3(
            **_sizes(48, 64, 2, (3, 1), 139),
            head_dim=20,
            rms_norm_eps=1e-6,
            rope_parameters=_YARN_ATTENTION_FACTOR,
            layer_types=["full_attention", "sliding_attention"],
            sliding_window=30,
            use_sliding_window=True,
            max_window_layers=2,
            attention_bias=False,
            tie_word_embeddings=False,
            dtype="float16",
        ),
        storage="float16",
        max_shard_size="20KB",
        without=(
            {"layer_types": ["full_attention", "full_attention"]},
            {"rope_parameters": _less(_YARN_ATTENTION_FACTOR, "attention_factor")},
            {"rope_parameters": _less(_YARN_ATTENTION_FACTOR, "truncate")},
        ),
    ),
)

CASES: tuple[Case, ...] = (*_LLAMA, *_MISTRAL, *_QWEN2, *_QWEN3)
