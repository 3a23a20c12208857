"""Values of another kind than their field: each nested object at each level, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.families import FAMILIES
from neuron_artifacts.backends.nxdi.kinds import wrong_kinds
from neuron_artifacts.backends.nxdi.levels import TRANSFORMERS, level_of
from neuron_artifacts.backends.nxdi.lora import lora_defaults
from neuron_artifacts.backends.nxdi.nested import nested_defaults
from neuron_artifacts.backends.nxdi.neuron_config import field_defaults

MIXTRAL = FAMILIES["MixtralForCausalLM"]
OBJECTS = (
    "blockwise_matmul_config", "chunked_prefill_config", "hybrid_sharding_config", "lora_config",
    "on_device_sampling_config", "router_config", "tensor_capture_config", "token_tree_config",
)  # fmt: skip


def wrong(sdk: str = "2.29", **arguments: Any) -> list[tuple[str, str]]:
    return list(wrong_kinds(arguments, MIXTRAL, level_of(sdk)))


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("value", [5, True, "on", [], 2.5])
def test_what_is_no_object(name: str, value: object) -> None:
    assert wrong(**{name: value}) == [(name, f"{name} must be an object, and is {value!r}")]


def entries(sdk: str) -> dict[str, Mapping[str, Any]]:
    level = level_of(sdk)
    fields = field_defaults(MIXTRAL, level)
    known = {**nested_defaults(level), "lora_config": lora_defaults(level)}
    return {name: table for name, table in known.items() if name in fields}


@pytest.mark.parametrize("sdk", TRANSFORMERS)
def test_every_entry_with_its_default_and_with_another_kind(sdk: str) -> None:
    for name, table in entries(sdk).items():
        assert wrong(sdk, **{name: dict(table)}) == []
        for entry, default in table.items():
            if isinstance(default, (bool, int, float, str)):
                told = wrong(sdk, **{name: {entry: [default]}})
                assert [option for option, _ in told] == [name], entry
                assert f"{name}.{entry} must be" in told[0][1]


@pytest.mark.parametrize("sdk", TRANSFORMERS)
def test_every_field_with_its_default(sdk: str) -> None:
    assert wrong(sdk, **field_defaults(MIXTRAL, level_of(sdk))) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fused_qkv": "false"}, "fused_qkv must be true or false, and is 'false'"),
        ({"fused_qkv": 2}, "fused_qkv must be true or false, and is 2"),
        ({"tp_degree": "8"}, "tp_degree must be a whole number, and is '8'"),
        ({"tp_degree": True}, "tp_degree must be a whole number, and is True"),
        ({"seq_len": 1024.0}, "seq_len must be a whole number, and is 1024.0"),
        ({"quantize_clamp_bound": "inf"}, "quantize_clamp_bound must be a number, and is 'inf'"),
        ({"padding_side": 1}, "padding_side must be text, and is 1"),
        ({"context_encoding_buckets": 128}, "context_encoding_buckets must be a list, and is 128"),
        ({"attn_kernel_enabled": "no"}, "attn_kernel_enabled must be true or false, and is 'no'"),
        ({"quantized_checkpoints_path": 1}, "quantized_checkpoints_path must be text, and is 1"),
        ({"medusa_tree": "tree.json"}, "medusa_tree must be a list, and is 'tree.json'"),
        ({"lora_config": {"lora_ckpt_paths": "a"}},
         "lora_config.lora_ckpt_paths must be an object of paths or a list of id:path, and is 'a'"),
        ({"lora_config": {"lora_ckpt_paths": {"a": 3}}},
         "lora_config.lora_ckpt_paths must be an object of paths or a list of id:path, and is "
         "{'a': 3}"),
        ({"lora_config": {"target_modules": "q_proj"}},
         "lora_config.target_modules must be a list, and is 'q_proj'"),
        ({"on_device_sampling_config": {"on_device_sampling_config": {}}},
         "on_device_sampling_config.on_device_sampling_config must be true or false, and is {}"),
        ({"on_device_sampling_config": {"topk": 1}},
         "on_device_sampling_config has no entry 'topk' in SDK 2.29"),
        ({"router_config": {"dtyp": "x"}}, "router_config has no entry 'dtyp' in SDK 2.29"),
    ],
)  # fmt: skip
def test_messages(arguments: dict[str, Any], message: str) -> None:
    assert wrong(**arguments) == [(next(iter(arguments)), message)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"fused_qkv": 1, "is_medusa": 0}, {"fused_qkv": None, "lora_config": None},
        {"logical_nc_config": "2", "capacity_factor": "1.5", "scratchpad_page_size": "256"},
        {"quantize_clamp_bound": 448}, {"on_device_sampling_config": {"temperature": 1}},
        {"lora_config": {"lora_ckpt_paths": ["a:/a"], "unheard_of": 1}}, {"unheard_of": object()},
        {"token_generation_batches": 4},
    ],
)  # fmt: skip
def test_what_the_constructor_takes(arguments: dict[str, Any]) -> None:
    assert wrong(**arguments) == []
