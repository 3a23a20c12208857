"""What NxD Inference's NeuronConfig refuses: a refused configuration has no hash.

Each rule has a name and the SDK level that introduced it, and all that are broken are found, not
only the first. Sources: ``models/config.py`` of neuronx-distributed-inference at each level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class BrokenRule:
    """A rule by its name, and how it is broken."""

    rule: str
    message: str
    hint: str | None = None


class _Broken(list[BrokenRule]):
    def unless(self, holds: Any, rule: str, message: str) -> None:
        if not holds:
            self.append(BrokenRule(rule, message))


def check_fields(fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel) -> None:
    """Refuse what the constructor refuses.

    ``fields`` is the finished configuration, ``given`` the arguments it was made from.

    Raises
    ------
    SpecError
        With the first rule that is broken.
    """
    for broken in broken_rules(fields, given, level):
        raise SpecError(f"NxD Inference refuses this: {broken.message}", hint=broken.hint)


def broken_rules(
    fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel
) -> tuple[BrokenRule, ...]:
    """Every rule of the constructor that the arguments break, in its order."""
    broken = _Broken()
    _check_lengths(broken, fields, level)
    _check_speculation(broken, fields, level)
    _check_block_layout(broken, fields, level)
    _check_capture(broken, fields, given, level)
    _check_quantization(broken, fields, level)
    _check_degrees(broken, fields, level)
    _check_attention_kernels(broken, fields, given, level)
    if level.since("2.28"):
        _check_batch_buckets(broken, fields)
    return tuple(broken)


def _check_lengths(broken: _Broken, fields: Mapping[str, Any], level: SdkLevel) -> None:
    if level.since("2.25"):
        context, most = fields["max_context_length"], fields["max_length"]
        broken.unless(
            context <= most,
            "max-context-length",
            f"max_context_length {context} is more than max_length {most}",
        )
    for name, limit in (
        ("context_encoding_buckets", "max_context_length"),
        ("token_generation_buckets", "max_length"),
        ("token_generation_batches", "tkg_batch_size"),
    ):
        if fields.get(name) is None:
            continue
        broken.unless(fields[name], "buckets-empty", f"{name} is empty")
        if fields[name]:
            last, most = fields[name][-1], fields[limit]
            broken.unless(
                last <= most, "buckets-limit", f"{name} ends at {last}, beyond {limit} {most}"
            )


def _check_speculation(broken: _Broken, fields: Mapping[str, Any], level: SdkLevel) -> None:
    speculates = fields["speculation_length"] > 0
    if level.before("2.22"):
        both = speculates and fields["async_mode"]
        broken.unless(not both, "speculation-async", "speculation with async")
        return
    medusa = fields["is_medusa"] and fields["async_mode"]
    broken.unless(not medusa, "medusa-async", "Medusa with async_mode")
    if level.name == "2.22":
        unfused = speculates and fields["async_mode"] and not fields["enable_fused_speculation"]
        broken.unless(not unfused, "speculation-async", "unfused speculation with async_mode")


def _check_block_layout(broken: _Broken, fields: Mapping[str, Any], level: SdkLevel) -> None:
    if level.before("2.22") or not fields["is_chunked_prefill"]:
        return
    broken.unless(
        fields["is_block_kv_layout"],
        "chunked-prefill-layout",
        "chunked prefill without is_block_kv_layout",
    )
    alone = level.before("2.24") or not fields["chunked_prefill_config"]["tkg_model_enabled"]
    batch = fields["batch_size"]
    broken.unless(
        not alone or batch == 1,
        "chunked-prefill-batch",
        f"chunked prefill with batch_size {batch} rather than 1",
    )


def _check_capture(
    broken: _Broken, fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel
) -> None:
    if level.before("2.27"):
        return
    needs = fields["tensor_capture_config"] and not given.get("output_logits")
    broken.unless(
        not needs or fields["on_device_sampling_config"] is not None,
        "tensor-capture",
        "tensor_capture_config needs an on_device_sampling_config",
    )


def _check_quantization(broken: _Broken, fields: Mapping[str, Any], level: SdkLevel) -> None:
    if fields["quantized"]:
        _check_quantized_checkpoint(broken, fields, level)
    if fields["rmsnorm_quantize_kernel_enabled"]:
        broken.unless(
            fields["quantized_mlp_kernel_enabled"],
            "rmsnorm-quantize-kernel",
            "rmsnorm_quantize_kernel_enabled without quantized_mlp_kernel_enabled",
        )
    if level.before("2.22"):
        return
    kind = fields["activation_quantization_type"]
    kinds = (None, "dynamic", "static") if level.since("2.28") else (None, "dynamic")
    broken.unless(
        kind in kinds,
        "activation-quantization-type",
        f"activation_quantization_type {kind!r} is unknown",
    )
    kernels = fields["quantized_mlp_kernel_enabled"] or fields["mlp_kernel_enabled"]
    broken.unless(
        not (kernels and kind),
        "activation-quantization-kernels",
        "activation_quantization_type with MLP kernels",
    )
    if fields["quantized"] or is_mlp_quantized(fields):
        qkv = fields["qkv_kernel_enabled"] or fields.get("qkv_nki_kernel_enabled")
        broken.unless(
            not qkv or fields["modules_to_not_convert"],
            "quantized-qkv-kernel",
            "a quantized model with a QKV kernel needs modules_to_not_convert",
        )


def _check_quantized_checkpoint(
    broken: _Broken, fields: Mapping[str, Any], level: SdkLevel
) -> None:
    broken.unless(
        fields["quantized_checkpoints_path"] is not None,
        "quantized-path",
        "quantized without quantized_checkpoints_path",
    )
    known = (*_QUANTIZED_DTYPES, *(_NEWER_DTYPES if level.since("2.27") else ()))
    dtype = fields["quantization_dtype"]
    broken.unless(
        dtype.upper() in known, "quantization-dtype", f"quantization_dtype {dtype!r} is unknown"
    )
    if level.before("2.22") and fields["quantized_mlp_kernel_enabled"]:
        broken.unless(
            dtype == "f8e4m3", "quantized-mlp-dtype", "a quantized MLP kernel needs f8e4m3"
        )


def _check_degrees(broken: _Broken, fields: Mapping[str, Any], level: SdkLevel) -> None:
    if level.before("2.24"):
        return
    tp, cp = fields["tp_degree"], fields["cp_degree"]
    broken.unless(tp % cp == 0, "cp-degree", f"tp_degree {tp} is not a multiple of cp_degree {cp}")
    cast = fields["cast_type"]
    broken.unless(cast in ("config", "as-declared"), "cast-type", f"unknown cast_type {cast!r}")
    other = fields["attention_dtype"] not in (None, fields["torch_dtype"])
    broken.unless(
        not other or cast == "as-declared",
        "attention-dtype",
        f"attention_dtype {fields['attention_dtype']} differs from torch_dtype "
        f"{fields['torch_dtype']} without cast_type as-declared",
    )
    if level.since("2.25"):
        _check_attention_data_parallel(broken, fields, level)
    if level.since("2.26"):
        strided = fields["strided_context_parallel_kernel_enabled"]
        broken.unless(
            not strided or cp > 1,
            "strided-cp-kernel",
            "strided context parallelism without cp_degree > 1",
        )
    if level.since("2.27"):
        _check_newer_degrees(broken, fields, level)


def _check_newer_degrees(broken: _Broken, fields: Mapping[str, Any], level: SdkLevel) -> None:
    cp_mlp = fields["mlp_cp_degree"] > 1
    broken.unless(
        not cp_mlp or fields["sequence_parallel_enabled"],
        "mlp-cp-degree",
        "mlp_cp_degree > 1 without sequence_parallel_enabled",
    )
    shuffles = fields["is_mxfp4_compute"] or (level.since("2.28") and fields["is_eagle_draft"])
    broken.unless(
        not fields["is_full_model_shuffled"] or shuffles,
        "full-model-shuffled",
        "is_full_model_shuffled without is_mxfp4_compute or an EAGLE draft",
    )
    if level.since("2.28"):
        tp, batch = fields["tp_degree"], fields["tkg_batch_size"]
        broken.unless(
            not (fields["ep_dispatch_cc_option"] == "RS_AG" and tp > batch),
            "ep-dispatch",
            f"ep_dispatch_cc_option RS_AG with tp_degree {tp} > batch size {batch}",
        )


def _check_attention_data_parallel(
    broken: _Broken, fields: Mapping[str, Any], level: SdkLevel
) -> None:
    dp, cp = fields["attention_dp_degree"], fields["cp_degree"]
    for name in ("tp_degree", "tkg_batch_size"):
        broken.unless(
            fields[name] % dp == 0,
            "attention-dp-degree",
            f"{name} {fields[name]} is not a multiple of attention_dp_degree {dp}",
        )
    if not dp > 1:
        return
    broken.unless(
        cp <= 1 or cp % dp == 0,
        "attention-dp-cp",
        f"cp_degree {cp} is not a multiple of attention_dp_degree {dp}",
    )
    broken.unless(
        fields["is_continuous_batching"],
        "attention-dp-batching",
        "attention_dp_degree > 1 without is_continuous_batching",
    )
    if level.since("2.26"):
        updates = fields["attn_block_tkg_nki_kernel_cache_update"]
        allowed = fields.get("kv_cache_update_with_kernel")
        broken.unless(
            not updates or allowed,
            "attention-dp-cache-update",
            "attn_block_tkg_nki_kernel_cache_update with attention_dp_degree > 1",
        )


def _check_attention_kernels(
    broken: _Broken, fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel
) -> None:
    if level.before("2.23"):
        return
    enabled = sum(bool(fields[name]) for name in _TKG_KERNELS)
    if level.since("2.29"):
        enabled = bool(fields["attn_block_tkg_nki_kernel_enabled"])
    else:
        broken.unless(
            enabled <= 1,
            "tkg-kernels-exclusive",
            "more than one token-generation attention kernel",
        )
    _check_block_kernels(broken, fields, given, level)
    if not fields["attn_block_tkg_nki_kernel_enabled"]:
        for name in ("cache_update", "cascaded_attention"):
            field = f"attn_block_tkg_nki_kernel_{name}"
            broken.unless(
                not fields.get(field), "block-tkg-kernel-parts",
                f"{field} needs attn_block_tkg_nki_kernel_enabled",
            )  # fmt: skip
    excluded = ["flash_decoding_enabled", "is_chunked_prefill"]
    with_layout = [*excluded, "is_block_kv_layout"]
    if enabled:
        for name in with_layout if level.name == "2.23" else excluded:
            broken.unless(
                not fields[name], "tkg-kernels-exclude",
                f"token-generation attention kernels with {name}",
            )  # fmt: skip
    if fields["k_cache_transposed"]:
        for name in with_layout:
            broken.unless(not fields[name], "k-cache-transposed", f"k_cache_transposed with {name}")


def _check_block_kernels(
    broken: _Broken, fields: Mapping[str, Any], given: Mapping[str, Any], level: SdkLevel
) -> None:
    block = given.get("attn_block_tkg_nki_kernel_enabled", False)
    qkv = fields["qkv_kernel_enabled"] or fields.get("qkv_nki_kernel_enabled")
    if level.since("2.24"):
        broken.unless(
            not block or qkv,
            "block-tkg-kernel",
            "attn_block_tkg_nki_kernel_enabled needs qkv_kernel_enabled",
        )
    if level.since("2.25") and fields["attn_block_cte_nki_kernel_enabled"]:
        if level.since("2.29"):
            for name in CTE_KERNELS:
                broken.unless(
                    fields[name] is not False, "block-cte-kernel",
                    f"attn_block_cte_nki_kernel_enabled needs {name} to be true",
                )  # fmt: skip
        else:
            broken.unless(
                block and qkv, "block-cte-kernel", "attn_block_cte_nki_kernel_enabled alone"
            )
    if level.since("2.27") and fields["qkv_cte_nki_kernel_fuse_rope"]:
        both = fields["qkv_kernel_enabled"] and fields["qkv_nki_kernel_enabled"]
        broken.unless(
            both,
            "fuse-rope-kernel",
            "qkv_cte_nki_kernel_fuse_rope needs qkv_kernel_enabled and qkv_nki_kernel_enabled",
        )


def _check_batch_buckets(broken: _Broken, fields: Mapping[str, Any]) -> None:
    if fields["token_generation_batches"] is None:
        return
    length = fields["speculation_length"]
    broken.unless(
        not length > 0,
        "batch-buckets",
        f"token_generation_batches with speculation_length {length}",
    )
    for name in (
        "enable_fused_speculation", "enable_eagle_speculation", "is_medusa", "enable_token_tree",
        "is_chunked_prefill", "is_prefix_caching", "is_block_kv_layout",
    ):  # fmt: skip
        broken.unless(not fields[name], "batch-buckets", f"token_generation_batches with {name}")
