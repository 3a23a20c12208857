"""transformers' configuration objects, rebuilt from tables."""

from __future__ import annotations

from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.hf_config import load_hf_config
from neuron_artifacts.backends.nxdi.levels import TRANSFORMERS, read_table
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError

VERSIONS = sorted(set(TRANSFORMERS.values()))


def load(version: str = "4.51.3", model_type: str = "llama", **config: Any) -> dict[str, Any]:
    return load_hf_config({"model_type": model_type, **config}, "name", version)[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_say_which_version_made_them(version: str) -> None:
    assert read_table(f"hf-config-defaults-{version}")["transformers"] == version


@pytest.mark.parametrize(
    ("version", "model_type", "config", "expected"),
    [
        ("4.51.3", "llama", {"hidden_size": 96, "num_attention_heads": 3},
         {"head_dim": 32, "num_key_value_heads": 3}),
        ("4.51.3", "llama", {"head_dim": 7}, {"head_dim": 7}),
        ("4.48.0", "mixtral", {}, {"head_dim": 128}),
        ("4.57.6", "mixtral", {}, {"head_dim": None}),
        ("4.51.3", "mistral", {}, {"head_dim": 128, "sliding_window": 4096}),
        ("4.57.6", "mistral", {}, {"head_dim": None}),
        ("4.57.6", "mistral", {"layer_types": ["full_attention"]},
         {"model_type": "ministral", "layer_types": ["full_attention"]}),
        ("4.57.6", "ministral", {"num_hidden_layers": 1}, {"layer_types": ["sliding_attention"]}),
        ("4.48.0", "qwen2", {}, {"sliding_window": None}),
        ("4.51.3", "qwen2", {}, {"sliding_window": 4096}),
        ("4.57.6", "qwen2", {"num_hidden_layers": 2},
         {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
        ("4.57.6", "qwen2",
         {"num_hidden_layers": 2, "use_sliding_window": True, "max_window_layers": 1},
         {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4096}),
        ("4.57.6", "qwen3_moe", {"mlp_only_layers": None}, {"mlp_only_layers": []}),
        ("4.51.3", "llama", {"rope_scaling": {"type": "linear", "factor": 2.0}},
         {"rope_scaling": {"type": "linear", "factor": 2.0, "rope_type": "linear"}}),
        ("4.51.3", "mixtral", {"rope_scaling": {"type": "x"}}, {"rope_scaling": {"type": "x"}}),
        ("4.51.3", "llama", {"torch_dtype": "half"}, {"torch_dtype": "float16"}),
        ("4.57.6", "llama", {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ("4.57.6", "llama", {"torch_dtype": "float16", "dtype": "bfloat16"},
         {"dtype": "bfloat16"}),
        ("4.51.3", "llama", {"dtype": "bfloat16"}, {"torch_dtype": None, "dtype": "bfloat16"}),
        ("4.51.3", "llama", {"num_labels": 1},
         {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}),
        ("4.51.3", "llama", {"id2label": {"1": "a"}}, {"id2label": {1: "a"}, "label2id": None}),
        ("4.51.3", "llama", {"pruned_heads": {"1": [0]}}, {"pruned_heads": {1: [0]}}),
        ("4.51.3", "llama", {"of_a_fork": [1]}, {"of_a_fork": [1]}),
        ("4.51.3", "dbrx", {"hidden_size": 64, "attn_config": {"kv_n_heads": 8}},
         {"d_model": 64, "num_key_value_heads": 8}),
    ],
)  # fmt: skip
def test_derived_attributes(
    version: str, model_type: str, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    attributes = load(version, model_type, **config)
    assert {name: attributes[name] for name in expected} == expected


def test_what_transformers_keeps_to_itself_does_not_show() -> None:
    hidden = {"_commit_hash": "x", "num_labels": 2, "attn_implementation": "eager"}
    assert load(**hidden) == load()
    assert load(_name_or_path="elsewhere")["_name_or_path"] == "name"


def test_versions_differ_in_one_known_attribute() -> None:
    assert "_attn_implementation_autoset" not in load("4.45.2")
    assert load("4.48.0")["_attn_implementation_autoset"] is False
    assert "_attn_implementation_autoset" not in load("4.56.2")


@pytest.mark.parametrize(
    "config",
    [
        {"torch_dtype": "float7"},
        {"torch_dtype": 16},
        {"id2label": {"a": "b"}},
        {"id2label": [1]},
        {"pruned_heads": None},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"use_return_dict": True},
        {"rope_scaling": 3},
        {"num_labels": [2]},
        {"attribute_map": {"a": "b"}},
    ],
)
def test_what_transformers_does_not_accept(config: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError):
        load(**config)


def test_a_null_number_of_labels() -> None:
    assert load("4.56.2", num_labels=None)["id2label"] == {0: "LABEL_0", 1: "LABEL_1"}
    with pytest.raises(ModelFormatError):
        load("4.51.3", num_labels=None)


def test_parts_take_only_what_their_class_knows() -> None:
    assert load("4.57.6", "dbrx", attn_config={"model_type": "", "kv_n_heads": 3})
    with pytest.raises(ModelFormatError, match="'foo'"):
        load("4.57.6", "dbrx", attn_config={"foo": 1})


def test_unknown_classes() -> None:
    with pytest.raises(UnsupportedModelError, match=r"4\.48\.0"):
        load("4.48.0", "qwen3")
