"""Reading config.json: transformers' defaults, and no value taken on trust."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from neuron_artifacts.backends.cpu.arch import (
    GRAPH_FIELDS,
    IRRELEVANT_FIELDS,
    SERVING_FIELDS,
    SUPPORTED,
    parse_arch,
)
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError
from tests.reference.golden import golden_names, read_golden

SLIDING, FULL = "sliding_attention", "full_attention"


def config(family: str = "Llama", **fields: Any) -> dict[str, Any]:
    return {"architectures": [f"{family}ForCausalLM"], **fields}


DEFAULTS: dict[str, dict[str, Any]] = {
    "Llama": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_layers": 32, "num_heads": 32,
        "num_kv_heads": 32, "head_dim": 128, "vocab_size": 32000, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048, "qkv_bias": False, "o_bias": False, "mlp_bias": False,
        "qk_norm": False, "tie_word_embeddings": False, "windows": (None,) * 32,
    },
    "Mistral": {
        "intermediate_size": 14336, "num_kv_heads": 8, "max_position_embeddings": 131072,
        "head_dim": 128, "windows": (4096,) * 32,
    },
    "Qwen2": {
        "vocab_size": 151936, "intermediate_size": 22016, "num_kv_heads": 32, "head_dim": 128,
        "max_position_embeddings": 32768, "qkv_bias": True, "o_bias": False,
        "windows": (None,) * 32,
    },
    "Qwen3": {
        "vocab_size": 151936, "head_dim": 128, "qkv_bias": False, "qk_norm": True,
        "windows": (None,) * 32,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", DEFAULTS)
def test_an_empty_config_is_the_family_default(family: str) -> None:
    arch = parse_arch(config(family))
    assert {name: getattr(arch, name) for name in DEFAULTS[family]} == DEFAULTS[family]
    assert (arch.rope.type, arch.rope.theta) == ("default", 10000.0)
    assert arch.architecture in SUPPORTED


READINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Llama", {"num_attention_heads": 8, "hidden_size": 64}, {"num_kv_heads": 8, "head_dim": 8}),
    ("Llama", {"head_dim": None, "num_key_value_heads": None}, {"head_dim": 128}),
    ("Llama", {"head_dim": 64}, {"head_dim": 64, "hidden_size": 4096}),
    ("Llama", {"attention_bias": True, "mlp_bias": True},
     {"qkv_bias": True, "o_bias": True, "mlp_bias": True}),
    ("Mistral", {"attention_bias": True}, {"qkv_bias": False, "o_bias": False}),
    ("Mistral", {"num_key_value_heads": None}, {"num_kv_heads": 32}),
    ("Mistral", {"sliding_window": None}, {"windows": (None,) * 32}),
    ("Mistral", {"sliding_window": 7, "num_hidden_layers": 2}, {"windows": (7, 7)}),
    ("Qwen2", {"num_attention_heads": 64, "num_key_value_heads": None}, {"num_kv_heads": 64}),
    ("Qwen2", {"sliding_window": 9, "num_hidden_layers": 2}, {"windows": (None, None)}),
    ("Qwen2", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1,
               "num_hidden_layers": 3}, {"windows": (None, 9, 9)}),
    ("Qwen2", {"use_sliding_window": True, "num_hidden_layers": 30},
     {"windows": (None,) * 28 + (4096,) * 2}),
    ("Qwen2", {"use_sliding_window": True, "sliding_window": None, "num_hidden_layers": 30},
     {"windows": (None,) * 30}),
    ("Qwen3", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 0,
               "num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}, {"windows": (5, None)}),
    ("Qwen3", {"attention_bias": True}, {"qkv_bias": True, "o_bias": True}),
    ("Qwen3", {"head_dim": None, "hidden_size": 64}, {"head_dim": 128}),
    ("Llama", {"hidden_act": "swish"}, {"qk_norm": False}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields", "expected"), READINGS)
def test_fields_mean_what_they_mean_to_transformers(
    family: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    arch = parse_arch(config(family, **fields))
    assert {name: getattr(arch, name) for name in expected} == expected


ROPES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_theta": 5e5}, {"theta": 5e5, "type": "default"}),
    ({"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 5.0}, {"theta": 7.0}),
    ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 5.0}, {"theta": 5.0}),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, {"type": "linear", "factor": 2.0}),
    ({"rope_scaling": {"rope_type": "linear", "factor": 3.0},
      "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0}},
     {"factor": 3.0, "theta": 10000.0}),
    ({"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
     {"factor": 2.0}),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": None}},
     {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 2048,
      "attention_factor": None, "truncate": True}),
    ({"rope_scaling": {"rope_type": "yarn", "factor": None,
                       "original_max_position_embeddings": 512}}, {"factor": 4.0}),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                       "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
      "original_max_position_embeddings": 128}, {"original_max_position_embeddings": 128}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), ROPES)
def test_rope_is_read_in_both_spellings(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    rope = parse_arch(config(**fields)).rope
    assert {name: getattr(rope, name) for name in expected} == expected


NUMBERS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
           "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings")  # fmt: skip
HOSTILE: list[Any] = [0, -1, 1.5, 64.0, "64", True, [64], {}, 10**30, math.nan, math.inf]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_bad_number_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(ModelFormatError) as caught:
        parse_arch(config(**{name: value}))
    assert name in caught.value.message
    assert repr(value)[:20] in caught.value.message


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MALFORMED: list[tuple[dict[str, Any], str]] = [
    (config(rms_norm_eps=math.nan), "rms_norm_eps"),
    (config(rms_norm_eps=-1e-6), "rms_norm_eps"),
    (config(rms_norm_eps="1e-6"), "rms_norm_eps"),
    (config(tie_word_embeddings=1), "tie_word_embeddings"),
    (config(attention_bias="yes"), "attention_bias"),
    (config(hidden_act=3), "hidden_act"),
    (config(rope_theta=0), "rope_theta"),
    (config(rope_theta=math.inf), "rope_theta"),
    (config(rope_scaling="linear"), "rope_scaling"),
    (config(rope_scaling={"type": "linear"}), "factor"),
    (config(rope_scaling={"type": "linear", "factor": "2"}), "factor"),
    (config(rope_scaling={"type": "linear", "factor": math.nan}), "factor"),
    (config(rope_scaling={"type": 4}), "type"),
    (config(rope_scaling={"type": "yarn"}), "factor"),
    (config(rope_scaling={"type": "yarn", "factor": 4.0, "beta_fast": 5e-324}), "beta_fast"),
    (config(rope_theta=10**400), "rope_theta"),
    (config(rope_scaling={**LLAMA3, "high_freq_factor": 1.0}), "high_freq_factor"),
    (config(rope_scaling={**LLAMA3, "low_freq_factor": None}), "low_freq_factor"),
    (config(num_attention_heads=12, hidden_size=100), "num_attention_heads"),
    (config(num_key_value_heads=5), "num_key_value_heads"),
    (config(head_dim=5), "head_dim"),
    (config(num_attention_heads=4096, head_dim=4096), "head_dim"),
    (config(model_type="mistral"), "model_type"),
    (config("Mistral", sliding_window=0), "sliding_window"),
    (config("Qwen2", use_sliding_window="true"), "use_sliding_window"),
    (config("Qwen2", layer_types=[FULL]), "layer_types"),
    (config("Qwen2", layer_types="full"), "layer_types"),
    (config("Qwen2", layer_types=[SLIDING] * 32), "layer_types"),
    ({"architectures": "LlamaForCausalLM"}, "architectures"),
    ({"architectures": []}, "architectures"),
    ({"architectures": [None]}, "architectures"),
    ({}, "architectures"),
]


@pytest.mark.parametrize(("document", "field"), MALFORMED, ids=str)
def test_a_malformed_config_is_refused_by_name(document: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelFormatError, match=field):
        parse_arch(document)


UNSUPPORTED: list[tuple[dict[str, Any], str, str]] = [
    ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM", "Qwen3ForCausalLM"),
    (config(hidden_act="gelu"), "hidden_act", "silu"),
    (config(partial_rotary_factor=0.5), "partial_rotary_factor", "1.0"),
    (config(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor", "1.0"),
    (config(rope_scaling={"type": "dynamic", "factor": 2.0}), "dynamic", "yarn"),
    (config(rope_scaling={"type": "mrope", "mrope_section": [1]}), "mrope", "llama3"),
    (config("Qwen2", rope_parameters={FULL: {"rope_type": "default"}}), "rope_parameters", "all"),
    (config(quantization_config={"quant_method": "gptq"}), "gptq", "float32"),
    (config(sliding_window=4096), "sliding_window", "llama"),
    (config("Mistral", layer_types=[SLIDING] + [FULL] * 31), "layer_types", SLIDING),
    (config("Qwen2", layer_types=["linear_attention"] * 32), "linear_attention", FULL),
]


@pytest.mark.parametrize(("document", "named", "offered"), UNSUPPORTED, ids=str)
def test_what_is_not_computed_is_refused_with_what_is(
    document: dict[str, Any], named: str, offered: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=named) as caught:
        parse_arch(document)
    assert offered in (caught.value.hint or "")


def test_every_field_of_the_goldens_is_judged_once() -> None:
    lists = (GRAPH_FIELDS, SERVING_FIELDS, IRRELEVANT_FIELDS)
    judged = [name for names in lists for name in names]
    assert len(judged) == len(set(judged))
    used = {name for golden in golden_names() for name in read_golden(golden).config}
    assert used <= set(judged)


@pytest.mark.parametrize("name", IRRELEVANT_FIELDS)
def test_irrelevant_fields_do_not_reach_the_architecture(name: str) -> None:
    assert parse_arch(config(**{name: "anything"})) == parse_arch(config())


def test_numbers_survive_json() -> None:
    document = json.loads('{"architectures": ["LlamaForCausalLM"], "rope_theta": 10000}')
    assert parse_arch(document).rope.theta == 10000.0
