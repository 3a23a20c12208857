"""Whether each value is of its field's kind. NeuronConfig keeps what it is given and fails later.

A field's kind is that of its default. Where that is null, what reads the field decides:
``models/config.py``, ``modules/autobucketing.py``, ``modules/lora_serving/config.py`` and
``modules/eagle/token_tree.py`` of neuronx-distributed-inference. Null itself is taken anywhere:
what cannot do without a number is found by the rules about numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from neuron_artifacts.backends.nxdi.families import Family
from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.backends.nxdi.lora import lora_defaults
from neuron_artifacts.backends.nxdi.nested import nested_defaults
from neuron_artifacts.backends.nxdi.neuron_config import field_defaults

_SWITCH, _WHOLE, _NUMBER = "true or false", "a whole number", "a number"
_TEXT, _LIST, _OBJECT, _ADAPTERS = (
    "text",
    "a list",
    "an object",
    "an object of paths or a list of id:path",
)

_MATCHES: Mapping[str, Callable[[Any], bool]] = {
    _SWITCH: lambda value: value in (0, 1) and isinstance(value, (bool, int)),
    _WHOLE: lambda value: isinstance(value, int) and not isinstance(value, bool),
    _NUMBER: lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    _TEXT: lambda value: isinstance(value, str),
    _LIST: lambda value: isinstance(value, list),
    _OBJECT: lambda value: isinstance(value, Mapping),
    _ADAPTERS: lambda value: _holds_text(value),
}

_BY_NAME = {
    **dict.fromkeys((
        "context_encoding_buckets", "draft_model_modules_to_not_convert", "medusa_tree",
        "modules_to_not_convert", "prefix_buckets", "target_modules", "token_generation_buckets",
    ), _LIST),
    **dict.fromkeys((
        "blockwise_matmul_config", "chunked_prefill_config", "hybrid_sharding_config",
        "kv_quant_config", "lora_config", "on_device_sampling_config", "router_config",
        "tensor_capture_config", "tensor_replacement_config", "token_tree_config",
    ), _OBJECT),
    **dict.fromkeys((
        "attn_kernel_enabled", "expert_mlp_nki_kernel_enabled", "moe_fused_nki_kernel_enabled",
        "router_topk_nki_kernel_enabled", "shared_mlp_nki_kernel_enabled",
    ), _SWITCH),
    **dict.fromkeys((
        "activation_quantization_type", "attention_dtype", "lora_ckpt_json",
        "quantized_checkpoints_path", "rpl_reduce_dtype",
    ), _TEXT),
    **dict.fromkeys((
        "gate_clamp_lower_limit", "gate_clamp_upper_limit", "up_clamp_lower_limit",
        "up_clamp_upper_limit",
    ), _NUMBER),
    **dict.fromkeys((
        "max_intermediate_tensors", "max_new_tokens", "padded_hidden_size",
        "padded_intermediate_size", "windowed_context_encoding_size",
    ), _WHOLE),
    **dict.fromkeys(("lora_ckpt_paths", "lora_ckpt_paths_cpu"), _ADAPTERS),
}  # fmt: skip

_CONVERTED = ("capacity_factor", "logical_nc_config", "scratchpad_page_size")
"""The constructor makes a number of what it is given."""


def wrong_kinds(
    arguments: Mapping[str, Any], family: Family, level: SdkLevel
) -> Iterator[tuple[str, str]]:
    """Each argument that has a value of another kind, nested ones included, and what is wrong.

    An entry that a nested object does not know is wrong too: it would be dropped without a word.
    """
    fields, objects = field_defaults(family, level), nested_defaults(level)
    for name, value in arguments.items():
        if name not in fields or value is None:
            continue
        if message := _wrong(name, name, value, fields[name]):
            yield name, message
        elif isinstance(value, Mapping) and name == "lora_config":
            yield from _wrong_entries(name, value, lora_defaults(level))  # unknown ones: see lora
        elif isinstance(value, Mapping) and name in objects:
            known = objects[name]
            yield from _wrong_entries(name, value, known)
            for entry in sorted(set(value) - set(known)):
                yield name, f"{name} has no entry {entry!r} in SDK {level.name}"


def _wrong_entries(
    name: str, given: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for entry, default in known.items():
        value = given.get(entry)
        if value is not None and (message := _wrong(f"{name}.{entry}", entry, value, default)):
            yield name, message


def _wrong(label: str, name: str, value: Any, default: Any) -> str | None:
    kind = None if name in _CONVERTED else _BY_NAME.get(name) or _kind_of(default)
    if name == "on_device_sampling_config" and isinstance(default, bool):
        kind = _SWITCH  # it has an entry of its own name
    if kind is None or _MATCHES[kind](value):
        return None
    return f"{label} must be {kind}, and is {value!r}"


def _holds_text(value: Any) -> bool:
    inside = value.values() if isinstance(value, Mapping) else value
    is_either = isinstance(value, (Mapping, list))
    return is_either and all(isinstance(entry, str) for entry in inside)


def _kind_of(default: Any) -> str | None:
    """In the order of Python's own kinds: true and false are whole numbers there."""
    kinds = ((bool, _SWITCH), (int, _WHOLE), (float, _NUMBER), (str, _TEXT), (list, _LIST))
    return next((kind for of, kind in kinds if isinstance(default, of)), None)
