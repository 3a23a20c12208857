"""InferenceConfig as data: the whole text whose md5 names an artifact directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from neuron_artifacts.backends.nxdi.families import Family
from neuron_artifacts.backends.nxdi.hf_config import load_hf_config
from neuron_artifacts.backends.nxdi.levels import SdkLevel, read_table
from neuron_artifacts.backends.nxdi.nested import check_dtype
from neuron_artifacts.backends.nxdi.neuron_config import WRONG_VALUES
from neuron_artifacts.errors import SpecError, UnsupportedModelError


def inference_config(
    config: Mapping[str, Any],
    name_or_path: str,
    fields: Mapping[str, Any],
    *,
    family: Family,
    level: SdkLevel,
) -> dict[str, Any]:
    """The instance attributes of ``InferenceConfig``, nested objects as dictionaries.

    ``fields`` is the finished NeuronConfig; the result holds a copy of it, with the model's own
    dtype where the user gave none.

    Raises
    ------
    SpecError, UnsupportedModelError, ModelFormatError
        NxD Inference would not construct it, or its text cannot be known.
    """
    attributes, attribute_map = load_hf_config(config, name_or_path, level.transformers)
    neuron = deepcopy(dict(fields))
    _restore_version(attributes, config, level)
    _move_dtype(attributes, neuron, level)
    attributes |= {"attribute_map": attribute_map, "neuron_config": neuron}
    attributes |= {"fused_spec_config": None, "num_cores_per_group": 1}
    if level.since("2.24"):
        attributes["metadata"] = None
    _require(attributes, family)
    try:
        _derive(attributes, family, level)
    except WRONG_VALUES as error:
        raise SpecError(f"a value cannot be computed with: {error}") from None
    _check(attributes, level)
    return attributes


def fused_speculation(
    family: Family, draft: Mapping[str, Any], draft_path: str, *, level: SdkLevel,
    draft_class: Family | None = None,
) -> dict[str, Any]:  # fmt: skip
    """FusedSpecNeuronConfig: the model class, the draft's configuration and its path.

    ``draft_class`` is the draft's own class where the loader names it, from 2.27 on.

    Raises
    ------
    UnsupportedModelError
        The text of the class is not known at this level.
    """
    content = {
        "worker_cls": _model_class(family, level),
        "draft_config": dict(draft),
        "draft_model_path": draft_path,
    }
    if level.before("2.27"):
        return content
    named = draft_class and {
        "__module__": draft_class.module,
        "__name__": draft_class.application_class,
    }
    return {**content, "draft_model_cls": named}


def render(attributes: Mapping[str, Any]) -> str:
    """The text that is hashed: keys sorted as they are (numbers as numbers), ASCII only."""
    return json.dumps(attributes, indent=2, sort_keys=True)


def _require(attributes: Mapping[str, Any], family: Family) -> None:
    names = attributes["attribute_map"]
    missing = [name for name in family.required if names.get(name, name) not in attributes]
    if missing:
        raise SpecError(
            f"NxD Inference refuses a {attributes['model_type']} configuration for its "
            f"{family.name} classes: it has no {missing[0]}"
        )


def _restore_version(
    attributes: dict[str, Any], config: Mapping[str, Any], level: SdkLevel
) -> None:
    """From 2.24 on the model's own version stands, not the installed one."""
    version = config.get("transformers_version")
    if level.before("2.24") or version is None:
        return
    attributes["transformers_version"] = version
    for value in attributes.values():
        if isinstance(value, dict) and "_name_or_path" in value:  # a nested configuration
            value["transformers_version"] = version


def _move_dtype(attributes: dict[str, Any], neuron: dict[str, Any], level: SdkLevel) -> None:
    """The model's dtype leaves the document for NeuronConfig, unless the user gave one."""
    if level.since("2.27"):
        dtype = attributes.get("dtype", attributes.get("torch_dtype"))
        if dtype is None:
            return
        for name in ("dtype", "torch_dtype"):
            attributes.pop(name, None)
    else:
        # Before 2.27 a missing dtype is moved like any other, and the newer spelling stays.
        if "torch_dtype" not in attributes:
            return
        dtype = attributes.pop("torch_dtype")
    if not neuron["overrides_torch_dtype"]:
        neuron["torch_dtype"] = check_dtype("torch_dtype", dtype, level)


def _derive(attributes: dict[str, Any], family: Family, level: SdkLevel) -> None:
    neuron, names = attributes["neuron_config"], attributes["attribute_map"]
    if family.name == "llama":
        if neuron["flash_decoding_enabled"]:
            attributes["num_cores_per_group"] = _cores_per_group(
                attributes, neuron["tp_degree"], level
            )
        padded = neuron.get("padded_hidden_size")
        if padded is not None and level.since("2.28"):
            size = names.get("hidden_size", "hidden_size")
            attributes.setdefault("original_hidden_size", attributes[size])
            attributes[size] = padded
    elif family.name == "qwen2":
        attributes |= {"qkv_bias": True, "o_bias": False}
    elif family.name == "qwen3_moe" and level.since("2.27"):
        _derive_qwen3_moe(attributes, neuron)


def _derive_qwen3_moe(attributes: dict[str, Any], neuron: dict[str, Any]) -> None:
    attributes |= {"num_local_experts": attributes["num_experts"], "n_shared_experts": 0}
    degree = neuron["moe_tp_degree"]
    blockwise = neuron["blockwise_matmul_config"]
    share = attributes["moe_intermediate_size"] // degree
    shards = isinstance(blockwise, dict) and blockwise["use_shard_on_intermediate_dynamic_while"]
    if shards and share % 256:
        padded = -(-share // 256) * 256 * degree
        padding = max(padded - attributes["moe_intermediate_size"], 0)
        attributes |= {"moe_intermediate_pad_size": padding, "moe_intermediate_size": padded}
    share = attributes["moe_intermediate_size"] // degree
    if neuron["moe_fused_nki_kernel_enabled"] and share % 128 == 0:
        attributes["moe_fused_nki_kernel_enabled"] = True
    attributes["intermediate_size"] = attributes["moe_intermediate_size"]
    neuron["router_config"] = {"act_fn": "softmax", "dtype": "float32"}
    neuron |= {"disable_numeric_cc_token": True, "normalize_top_k_affinities": True}


def _cores_per_group(attributes: Mapping[str, Any], tp_degree: int, level: SdkLevel) -> int:
    """Flash decoding: how many cores share one key-value head."""
    names = attributes["attribute_map"]
    heads, kv_heads = (
        attributes[names.get(name, name)] for name in ("num_attention_heads", "num_key_value_heads")
    )
    cores = min(tp_degree, heads)
    if cores % kv_heads or (level.before("2.28") and heads % tp_degree):
        raise SpecError(
            f"flash decoding cannot lay {heads} heads and {kv_heads} key-value heads over "
            f"tp_degree {tp_degree}"
        )
    return int(cores // kv_heads)


def _check(attributes: Mapping[str, Any], level: SdkLevel) -> None:
    neuron = attributes["neuron_config"]
    if "attention_chunk_size" in attributes and level.since("2.24"):
        raise UnsupportedModelError("chunked attention is not known here")
    window = neuron.get("windowed_context_encoding_size")
    sliding = attributes.get("sliding_window")
    if window is not None and sliding is not None and window != sliding:
        raise SpecError(
            f"windowed_context_encoding_size {window} is not the model's sliding_window {sliding}"
        )


def _model_class(family: Family, level: SdkLevel) -> dict[str, Any]:
    if level.since("2.23"):
        return {"__module__": family.module, "__name__": family.model_class}
    classes = read_table("model-classes-2.22")
    if family.name not in classes:
        raise UnsupportedModelError(
            f"the text of {family.model_class} is not known at SDK {level.name}",
            hint="before SDK 2.23 a class is hashed through its members",
        )
    return {"__module__": family.module, **deepcopy(classes[family.name])}
