"""What NxD Inference's NeuronConfig refuses: a refused configuration has no hash.

Each rule names the SDK level that introduced it. Sources: ``models/config.py`` of
neuronx-distributed-inference at each level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.errors import SpecError

CTE_KERNELS = (
    "qkv_kernel_enabled", "qkv_nki_kernel_enabled", "attn_kernel_enabled",
    "out_proj_kernel_enabled",
)  # fmt: skip

_TKG_KERNELS = (
    "attn_tkg_nki_kernel_enabled", "attn_tkg_builtin_kernel_enabled",
    "attn_block_tkg_nki_kernel_enabled",
)  # fmt: skip

_QUANTIZED_DTYPES = ("INT8", "F8E4M3", "F8E5M2")
_NEWER_DTYPES = ("F8E4M3FN", "F4E2M1FN_X4", "F8E4M3FN_X4", "F8E5M2_X4")


def is_mlp_quantized(fields: Mapping[str, Any]) -> bool:
    quantized = fields["quantized_mlp_kernel_enabled"]
    return bool(quantized or fields.get("activation_quantization_type"))


def check_fields(fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel) -> None:
    """Refuse what the constructor refuses.

    ``fields`` is the finished configuration, ``given`` the arguments it was made from.

    Raises
    ------
    SpecError
        With the rule that is broken.
    """
    _check_lengths(fields, level)
    _check_speculation(fields, level)
    _check_block_layout(fields, level)
    _check_quantization(fields, level)
    _check_degrees(fields, level)
    _check_attention_kernels(fields, given, level)
    if level.since("2.28"):
        _check_batch_buckets(fields)


def _refuse_unless(holds: Any, message: str) -> None:
    if not holds:
        raise SpecError(f"NxD Inference refuses this: {message}")


def _check_lengths(fields: Mapping[str, Any], level: SdkLevel) -> None:
    if level.since("2.25"):
        _refuse_unless(
            fields["max_context_length"] <= fields["max_length"],
            "max_context_length is more than max_length",
        )
    for name, limit in (
        ("context_encoding_buckets", "max_context_length"),
        ("token_generation_buckets", "max_length"),
        ("token_generation_batches", "tkg_batch_size"),
    ):
        if fields.get(name) is not None:
            _refuse_unless(fields[name], f"{name} is empty")
            _refuse_unless(
                fields[name][-1] <= fields[limit],
                f"{name} ends at {fields[name][-1]}, beyond {limit} {fields[limit]}",
            )


def _check_speculation(fields: Mapping[str, Any], level: SdkLevel) -> None:
    speculates = fields["speculation_length"] > 0
    if level.before("2.22"):
        _refuse_unless(not (speculates and fields["async_mode"]), "speculation with async")
        return
    _refuse_unless(not (fields["is_medusa"] and fields["async_mode"]), "Medusa with async_mode")
    if level.name == "2.22":
        unfused = speculates and fields["async_mode"] and not fields["enable_fused_speculation"]
        _refuse_unless(not unfused, "unfused speculation with async_mode")


def _check_block_layout(fields: Mapping[str, Any], level: SdkLevel) -> None:
    if level.before("2.22") or not fields["is_chunked_prefill"]:
        return
    _refuse_unless(fields["is_block_kv_layout"], "chunked prefill without is_block_kv_layout")
    alone = level.before("2.24") or not fields["chunked_prefill_config"]["tkg_model_enabled"]
    _refuse_unless(not alone or fields["batch_size"] == 1, "chunked prefill with batch_size > 1")


def _check_quantization(fields: Mapping[str, Any], level: SdkLevel) -> None:
    if fields["quantized"]:
        _refuse_unless(
            fields["quantized_checkpoints_path"] is not None,
            "quantized without quantized_checkpoints_path",
        )
        known = (*_QUANTIZED_DTYPES, *(_NEWER_DTYPES if level.since("2.27") else ()))
        dtype = fields["quantization_dtype"]
        _refuse_unless(dtype.upper() in known, f"quantization_dtype {dtype!r} is unknown")
        if level.before("2.22") and fields["quantized_mlp_kernel_enabled"]:
            _refuse_unless(dtype == "f8e4m3", "a quantized MLP kernel needs f8e4m3")
    if fields["rmsnorm_quantize_kernel_enabled"]:
        _refuse_unless(
            fields["quantized_mlp_kernel_enabled"],
            "rmsnorm_quantize_kernel_enabled without quantized_mlp_kernel_enabled",
        )
    if level.before("2.22"):
        return
    kind = fields["activation_quantization_type"]
    kinds = (None, "dynamic", "static") if level.since("2.28") else (None, "dynamic")
    _refuse_unless(kind in kinds, f"activation_quantization_type {kind!r} is unknown")
    kernels = fields["quantized_mlp_kernel_enabled"] or fields["mlp_kernel_enabled"]
    _refuse_unless(not (kernels and kind), "activation_quantization_type with MLP kernels")
    if fields["quantized"] or is_mlp_quantized(fields):
        qkv = fields["qkv_kernel_enabled"] or fields.get("qkv_nki_kernel_enabled")
        _refuse_unless(
            not qkv or fields["modules_to_not_convert"],
            "a quantized model with a QKV kernel needs modules_to_not_convert",
        )


def _check_degrees(fields: Mapping[str, Any], level: SdkLevel) -> None:
    if level.before("2.24"):
        return
    tp, cp = fields["tp_degree"], fields["cp_degree"]
    _refuse_unless(tp % cp == 0, f"tp_degree {tp} is not a multiple of cp_degree {cp}")
    _refuse_unless(fields["cast_type"] in ("config", "as-declared"), "unknown cast_type")
    other = fields["attention_dtype"] not in (None, fields["torch_dtype"])
    _refuse_unless(
        not other or fields["cast_type"] == "as-declared",
        "attention_dtype differs from torch_dtype without cast_type as-declared",
    )
    if level.since("2.25"):
        _check_attention_data_parallel(fields, level)
    if level.since("2.26"):
        strided = fields["strided_context_parallel_kernel_enabled"]
        _refuse_unless(not strided or cp > 1, "strided context parallelism without cp_degree > 1")
    if level.since("2.27"):
        cp_mlp = fields["mlp_cp_degree"] > 1
        _refuse_unless(
            not cp_mlp or fields["sequence_parallel_enabled"],
            "mlp_cp_degree > 1 without sequence_parallel_enabled",
        )
        shuffles = fields["is_mxfp4_compute"] or (level.since("2.28") and fields["is_eagle_draft"])
        _refuse_unless(not fields["is_full_model_shuffled"] or shuffles, "is_full_model_shuffled")
    if level.since("2.28"):
        scatter = fields["ep_dispatch_cc_option"] == "RS_AG" and tp > fields["tkg_batch_size"]
        _refuse_unless(not scatter, "ep_dispatch_cc_option RS_AG with tp_degree > batch size")


def _check_attention_data_parallel(fields: Mapping[str, Any], level: SdkLevel) -> None:
    dp, cp = fields["attention_dp_degree"], fields["cp_degree"]
    for name in ("tp_degree", "tkg_batch_size"):
        _refuse_unless(fields[name] % dp == 0, f"{name} is not a multiple of attention_dp_degree")
    if not dp > 1:
        return
    _refuse_unless(cp <= 1 or cp % dp == 0, "cp_degree is not a multiple of attention_dp_degree")
    _refuse_unless(fields["is_continuous_batching"], "attention_dp_degree > 1 without batching")
    if level.since("2.26"):
        updates = fields["attn_block_tkg_nki_kernel_cache_update"]
        allowed = fields.get("kv_cache_update_with_kernel")
        _refuse_unless(not updates or allowed, "a kernel's cache update with attention_dp_degree")


def _check_attention_kernels(
    fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel
) -> None:
    if level.before("2.23"):
        return
    block = given.get("attn_block_tkg_nki_kernel_enabled", False)
    qkv = fields["qkv_kernel_enabled"] or fields.get("qkv_nki_kernel_enabled")
    enabled = sum(bool(fields[name]) for name in _TKG_KERNELS)
    if level.since("2.29"):
        enabled = bool(fields["attn_block_tkg_nki_kernel_enabled"])
    else:
        _refuse_unless(enabled <= 1, "more than one token-generation attention kernel")
    if level.since("2.24"):
        _refuse_unless(not block or qkv, "attn_block_tkg_nki_kernel_enabled needs a QKV kernel")
    if level.since("2.25") and level.before("2.29"):
        cte = fields["attn_block_cte_nki_kernel_enabled"]
        _refuse_unless(not cte or (block and qkv), "attn_block_cte_nki_kernel_enabled alone")
    if level.since("2.27") and fields["qkv_cte_nki_kernel_fuse_rope"]:
        both = fields["qkv_kernel_enabled"] and fields["qkv_nki_kernel_enabled"]
        _refuse_unless(both, "qkv_cte_nki_kernel_fuse_rope needs both QKV kernels")
    if not fields["attn_block_tkg_nki_kernel_enabled"]:
        for name in ("cache_update", "cascaded_attention"):
            field = f"attn_block_tkg_nki_kernel_{name}"
            _refuse_unless(not fields.get(field), f"{field} needs the kernel it belongs to")
    excluded = ["flash_decoding_enabled", "is_chunked_prefill"]
    with_layout = [*excluded, "is_block_kv_layout"]
    if enabled:
        for name in with_layout if level.name == "2.23" else excluded:
            _refuse_unless(not fields[name], f"token-generation attention kernels with {name}")
    if fields["k_cache_transposed"]:
        for name in with_layout:
            _refuse_unless(not fields[name], f"k_cache_transposed with {name}")


def _check_batch_buckets(fields: Mapping[str, Any]) -> None:
    if fields["token_generation_batches"] is None:
        return
    _refuse_unless(not fields["speculation_length"] > 0, "batch buckets with speculation")
    for name in (
        "enable_fused_speculation", "enable_eagle_speculation", "is_medusa", "enable_token_tree",
        "is_chunked_prefill", "is_prefix_caching", "is_block_kv_layout",
    ):  # fmt: skip
        _refuse_unless(not fields[name], f"token_generation_batches with {name}")
