"""NeuronConfig as data: the dictionary that NxD Inference hashes, for given arguments.

Each SDK level's fields and plain defaults are a table in this package's data, dumped from the
real class; here are the rules that the class's constructor adds: defaults that follow other
fields or the platform, fields that cannot be given, coercions, and the nested objects. What the
constructor refuses is in :mod:`neuron_artifacts.backends.nxdi.neuron_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from neuron_artifacts.backends.nxdi import nested
from neuron_artifacts.backends.nxdi.families import Family
from neuron_artifacts.backends.nxdi.levels import Host, SdkLevel, read_table
from neuron_artifacts.backends.nxdi.lora import broken_adapters, lora_serving
from neuron_artifacts.backends.nxdi.neuron_rules import (
    CTE_KERNELS,
    check_fields,
    is_mlp_quantized,
)
from neuron_artifacts.errors import SpecError

_FOLLOWS = {
    "n_active_tokens": "seq_len",
    "n_positions": "seq_len",
    "max_context_length": "seq_len",
    "max_length": "seq_len",
    "pa_block_size": "seq_len",
    "ctx_batch_size": "batch_size",
    "tkg_batch_size": "batch_size",
    "max_batch_size": "batch_size",
    "kv_cache_batch_size": "batch_size",
    "spec_batch_size": "batch_size",
    "pa_num_blocks": "batch_size",
}
"""Fields whose default is another field's value."""

# Fields the constructor computes whatever it is given, with the level that began to.
_NOT_ARGUMENTS = {
    "is_prefill_stage": "2.21",
    "enable_token_tree": "2.21",
    "kv_cache_tiling": "2.21",
    "target_sequence_parallel_enabled": "2.21",
    "is_chunked_prefill": "2.24",
    "tile_cc": "2.24",
    "enable_long_context_mode": "2.25",
    "kv_cache_update_with_kernel": "2.27",
    "is_hidden_dim_shuffled": "2.27",
    "is_intermediate_dim_shuffled": "2.27",
    "normalize_top_k_affinities": "2.24",
}

WRONG_VALUES = (TypeError, AttributeError, ValueError, ArithmeticError, LookupError)
"""What a value of the wrong type or size raises where it is computed with, here as there."""

_SORTED = ("context_encoding_buckets", "token_generation_buckets", "token_generation_batches")

_ALIASES = (
    "async", "disable_normalize_top_k_affinities", "logical_neuron_cores", "router_act_fn",
    "router_dtype",
)  # fmt: skip
"""Arguments that reach a field of another name."""

_OF_LOADERS = (
    "block_size", "enable_prefix_caching", "lora_modules", "max_lora_rank", "max_loras",
    "num_gpu_blocks_override", "target_modules",
)  # fmt: skip
"""Names that vLLM takes beside NeuronConfig's own."""

_UNKNOWABLE = ("kv_quant_config", "tensor_replacement_config")


def build_neuron_config(
    kwargs: Mapping[str, Any], *, family: Family, level: SdkLevel, host: Host
) -> dict[str, Any]:
    """Every field of ``NeuronConfig(**kwargs)``, of the class that ``family`` uses.

    Arguments the class does not know are dropped, as it drops them with a warning.

    Raises
    ------
    SpecError
        The class would raise, or the value of a field cannot be known without it.
    """
    given = reaching_arguments(kwargs, family, level)
    for name in unknowable_arguments(given):
        raise SpecError(f"the text of {name} cannot be known without NxD Inference")
    fields = fill_in_neuron_config(kwargs, family=family, level=level, host=host)
    try:
        for broken in broken_adapters(given.get("lora_config"), level, hash_seed=host.hash_seed):
            raise SpecError(broken.message, hint=broken.hint)
        check_fields(fields, given, level)
    except WRONG_VALUES as error:
        raise _unusable(error) from None
    return fields


def fill_in_neuron_config(
    kwargs: Mapping[str, Any], *, family: Family, level: SdkLevel, host: Host
) -> dict[str, Any]:
    """The fields of :func:`build_neuron_config` without asking whether the class takes them.

    Raises
    ------
    SpecError
        A value cannot be computed with, or the value of a field cannot be known.
    """
    defaults = field_defaults(family, level)
    given = reaching_arguments(kwargs, family, level)
    fields: dict[str, Any] = deepcopy({**defaults, **given})
    try:
        _follow(fields, given)
        _set_dtypes(fields, given, level)
        _set_lists(fields, given, level)
        _set_nested(fields, level, host)
        _set_degrees(fields, given, level)
        _set_kernels(fields, given, level, host)
        _set_logical_cores(fields, kwargs, given, level, host)
        if family.is_moe:
            _set_experts(fields, kwargs, defaults, level, host)
    except WRONG_VALUES as error:
        raise _unusable(error) from None
    if family.attention is not None:
        fields["attn_cls"] = {"__module__": family.module, "__name__": family.attention}
    if family.name == "dbrx":
        fields["fused_qkv"] = True
    return fields


def field_defaults(family: Family, level: SdkLevel) -> dict[str, Any]:
    """Every field of the class that ``family`` uses, with its plain default."""
    tables = read_table(f"neuron-config-{level.name}")
    return {**tables["neuron"], **(tables["moe"] if family.is_moe else {})}


def reaching_arguments(
    kwargs: Mapping[str, Any], family: Family, level: SdkLevel
) -> dict[str, Any]:
    """The arguments that reach a field of their name."""
    defaults = field_defaults(family, level)
    given = {
        name: value
        for name, value in kwargs.items()
        if name in defaults and level.before(_NOT_ARGUMENTS.get(name, "2.99"))
    }
    if level.before("2.28"):
        given.pop("weights_to_skip_layout_optimization", None)
    if level.before("2.22"):
        # This level reads the field from an argument of another name.
        given.pop("async_mode", None)
        if "async" in kwargs:
            given["async_mode"] = kwargs["async"]
    if "torch_dtype" not in given:
        given.pop("overrides_torch_dtype", None)
    return given


def unknown_arguments(
    kwargs: Mapping[str, Any], family: Family, level: SdkLevel
) -> tuple[str, ...]:
    """Which arguments neither the class nor vLLM's loaders know."""
    known = {*field_defaults(family, level), *_ALIASES, *_OF_LOADERS}
    return tuple(sorted(set(kwargs) - known))


def unknowable_arguments(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Which arguments are given whose values only NxD Inference itself can tell."""
    found = [name for name in _UNKNOWABLE if kwargs.get(name) is not None]
    blockwise = kwargs.get("blockwise_matmul_config")
    if isinstance(blockwise, Mapping) and nested.has_unknowable_entries(blockwise):
        found.append("blockwise_matmul_config")
    return tuple(found)


def _unusable(error: Exception) -> SpecError:
    return SpecError(f"a NeuronConfig field has an unusable value: {error}")


def _follow(fields: dict[str, Any], given: Mapping[str, Any]) -> None:
    for name, source in _FOLLOWS.items():
        if name in fields and name not in given:
            fields[name] = fields[source]
    if "buckets" not in given:
        fields["buckets"] = [fields["seq_len"]]
    if "max_new_tokens" not in given:
        fields["max_new_tokens"] = fields["seq_len"] - fields["max_context_length"]
    if fields["max_new_tokens"] == 0:
        fields["max_new_tokens"] = None


def _set_dtypes(fields: dict[str, Any], given: Mapping[str, Any], level: SdkLevel) -> None:
    nested.check_dtype("torch_dtype", fields["torch_dtype"], level)
    if "torch_dtype" in given:
        fields["overrides_torch_dtype"] = given.get("overrides_torch_dtype", True)
    if level.before("2.24"):
        if "rpl_reduce_dtype" not in given:
            fields["rpl_reduce_dtype"] = fields["torch_dtype"]
        return
    for name in ("rpl_reduce_dtype", "attention_dtype"):
        nested.check_dtype(name, fields[name], level)


def _set_lists(fields: dict[str, Any], given: Mapping[str, Any], level: SdkLevel) -> None:
    batches = fields.get("token_generation_batches")
    if batches is not None and not isinstance(batches, list):
        fields["token_generation_batches"] = [batches]
    for name in (
        "context_encoding_buckets",
        "token_generation_buckets",
        "token_generation_batches",
    ):
        if fields.get(name) is not None:
            fields[name] = sorted(fields[name])
    if "enable_token_tree" in fields:
        fields["enable_token_tree"] = fields["token_tree_config"] is not None
    if "target_sequence_parallel_enabled" in fields:
        fields["target_sequence_parallel_enabled"] = fields["sequence_parallel_enabled"]
    if level.since("2.25"):
        is_long = fields["max_context_length"] >= 32 * 1024
        fields["enable_long_context_mode"] = is_long
        if "scratchpad_page_size" not in given:
            fields["scratchpad_page_size"] = 1024 if is_long else None
        if fields["scratchpad_page_size"]:
            fields["scratchpad_page_size"] = int(fields["scratchpad_page_size"])


def _set_nested(fields: dict[str, Any], level: SdkLevel, host: Host) -> None:
    sampling = fields["on_device_sampling_config"]
    fields["on_device_sampling_config"] = nested.on_device_sampling(sampling, level, host)
    fields["lora_config"] = lora_serving(fields["lora_config"], level, hash_seed=host.hash_seed)
    if level.since("2.24"):
        prefill = nested.chunked_prefill(fields["chunked_prefill_config"], level)
        fields["chunked_prefill_config"] = prefill
        fields["is_chunked_prefill"] = prefill is not None
    if level.since("2.27"):
        capture = nested.tensor_capture(fields["tensor_capture_config"])
        fields["tensor_capture_config"] = capture
        if capture and not fields["output_logits"]:
            fields["output_logits"] = True
        if isinstance(fields["lora_config"], dict) and fields["lora_config"]["dynamic_multi_lora"]:
            fields["weights_to_skip_layout_optimization"].append(".*lora.*")


def _set_degrees(fields: dict[str, Any], given: Mapping[str, Any], level: SdkLevel) -> None:
    if fields["enable_eagle_speculation"]:
        fields["enable_fused_speculation"] = True
    if given.get("world_size") is None:
        fields["world_size"] = fields["tp_degree"] * fields["pp_degree"] * fields["ep_degree"]
    if given.get("local_ranks_size") is None:
        fields["local_ranks_size"] = fields["world_size"]
    if level.since("2.27"):
        fields["is_hidden_dim_shuffled"] = fields["is_mxfp4_compute"]
        fields["is_intermediate_dim_shuffled"] = fields["is_mxfp4_compute"]


def _set_kernels(
    fields: dict[str, Any], given: Mapping[str, Any], level: SdkLevel, host: Host
) -> None:
    if level.name == "2.23":
        if "attn_block_tkg_nki_kernel_cache_update" not in given:
            kernel = fields["attn_block_tkg_nki_kernel_enabled"]
            fields["attn_block_tkg_nki_kernel_cache_update"] = kernel
        if "skip_warmup" not in given:
            fields["skip_warmup"] = host.target == "trn2"
    if level.since("2.29"):
        _replace_deprecated_kernels(fields)
    if level.since("2.28") and fields["activation_quantization_type"] is not None:
        # The constructor takes this argument a second time, when it is no longer there.
        fields["fused_qkv"] = False
    if level.since("2.25"):
        _set_attention_data_parallel(fields, level, host)
    fields["kv_cache_tiling"] = _tiles_kv_cache(fields)
    if level.since("2.22") and is_mlp_quantized(fields):
        fields["quantization_type"] = "per_channel_symmetric"
        fields["quantization_dtype"] = "f8e4m3"
    if level.since("2.24"):
        kernels = fields["mlp_kernel_enabled"] or fields["quantized_mlp_kernel_enabled"]
        fields["tile_cc"] = bool(fields["cc_pipeline_tiling_factor"] > 1 and kernels)


def _replace_deprecated_kernels(fields: dict[str, Any]) -> None:
    if fields["mlp_tkg_nki_kernel_enabled"]:
        fields["mlp_kernel_enabled"] = fields["mlp_tkg_nki_kernel_enabled"]
    if fields["attn_tkg_nki_kernel_enabled"] or fields["attn_tkg_builtin_kernel_enabled"]:
        fields["attn_block_tkg_nki_kernel_enabled"] = True
    if fields["attn_block_cte_nki_kernel_enabled"]:
        # One that is false, which most are by default, is refused, not switched on.
        fields |= {name: True for name in CTE_KERNELS if fields[name] is not False}


def _set_attention_data_parallel(fields: dict[str, Any], level: SdkLevel, host: Host) -> None:
    if "kv_cache_update_with_kernel" in fields:
        fields["kv_cache_update_with_kernel"] = False
    if not fields["attention_dp_degree"] > 1:
        return
    fields["kv_cache_batch_size"] = fields["tkg_batch_size"] // fields["attention_dp_degree"]
    fields["kv_cache_padding_size"] = 1  # a slot for writes that must go nowhere
    skips = level.since("2.27") and not host.is_first_generation
    if skips and fields["attn_block_tkg_nki_kernel_cascaded_attention"]:
        fields["kv_cache_update_with_kernel"] = True
        fields["kv_cache_padding_size"] = 0


def _tiles_kv_cache(fields: Mapping[str, Any]) -> bool:
    """Only speculation tiles the cache, in tiles of 128, unless a kernel or the user objects."""
    speculates = fields["enable_eagle_speculation"] or fields["enable_fused_speculation"]
    objects = fields.get("disable_kv_cache_tiling") or fields.get(
        "attn_block_tkg_nki_kernel_cache_update"
    )
    length = fields["max_length"]
    return bool(speculates and not objects and length > 128 and length % 128 == 0)


def _set_logical_cores(
    fields: dict[str, Any], kwargs: Mapping[str, Any], given: Mapping[str, Any],
    level: SdkLevel, host: Host,
) -> None:  # fmt: skip
    if level.before("2.22"):
        return
    newer = ("trn2", "trn3") if level.since("2.27") else ("trn2",)
    value = 2 if host.target in newer else 1
    asked = given.get("logical_nc_config", kwargs.get("logical_neuron_cores"))
    if asked is not None and not (int(asked) == -1 and level.since("2.24")):
        value = int(asked)
    if host.logical_nc_config is not None:
        value = host.logical_nc_config
    fields["logical_nc_config"] = value
    if "lm_head_pad" in fields and "lm_head_pad" not in given:
        fields["lm_head_pad"] = value > 1


def _set_experts(
    fields: dict[str, Any], kwargs: Mapping[str, Any], table: Mapping[str, Any],
    level: SdkLevel, host: Host,
) -> None:  # fmt: skip
    if fields["capacity_factor"] is not None:
        fields["capacity_factor"] = float(fields["capacity_factor"])
    if level.before("2.24"):
        return
    fields["normalize_top_k_affinities"] = not kwargs.get("disable_normalize_top_k_affinities")
    fields["blockwise_matmul_config"] = nested.blockwise_matmul(
        kwargs.get("blockwise_matmul_config", {}), table["blockwise_matmul_config"], level, host
    )
    fields["router_config"] = nested.router(kwargs, level)
    if level.since("2.26"):
        fields["hybrid_sharding_config"] = nested.hybrid_sharding(fields["hybrid_sharding_config"])
