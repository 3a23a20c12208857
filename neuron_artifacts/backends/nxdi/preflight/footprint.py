"""Bytes that weights and caches take on one core, and on the host that shards them.

Pure arithmetic over safetensors headers and NeuronConfig. Sources in
neuronx-distributed-inference: ``modules/kvcache/kv_cache_manager.py``,
``modules/kvcache/block_kv_cache_manager.py``, ``modules/flashdecode/utils.py`` (cache shapes) and
``models/llama/modeling_llama.py`` (which layers are parallel).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.backends.nxdi.preflight.heads import attention_degrees, lay_heads
from neuron_artifacts.backends.nxdi.preflight.subject import Shape
from neuron_artifacts.model.safetensors_header import DTYPE_BITS, TensorInfo

_WIDTHS = {
    "float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "f8e4m3": 8, "f8e4m3fn": 8,
    "f8e5m2": 8, "float8_e4m3fn": 8, "float8_e5m2": 8, "f4e2m1fn_x4": 4, "f8e4m3fn_x4": 8,
    "f8e5m2_x4": 8,
}  # fmt: skip
"""Bits of an element, by the names that NeuronConfig has for types."""

_CAST = ("F64", "F32", "F16", "BF16")
_SEQUENCE_MASK_PAD = 128  # KV_CACHE_PAD_FOR_SEQ_IDS_MASKING
_FLASH_DECODING_PAD = 128  # EXTRA_RESERVED_SPACE
_ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "Wqkv", "o_proj", "out_proj")


@dataclass(frozen=True)
class Cache:
    """The key-value cache of one core: ``slots`` rows, or blocks, of ``length`` positions."""

    layers: int
    slots: int
    length: int
    kv_heads: int
    head_dim: int
    bits: int

    @property
    def total(self) -> int:
        return (
            2 * self.layers * self.slots * self.length * self.kv_heads * self.head_dim * self.bits
        ) // 8

    def __str__(self) -> str:
        return (
            f"2 x {self.layers} layers x {self.slots} slots x {self.length} positions x "
            f"{self.kv_heads} heads x {self.head_dim} x {self.bits // 8 or 0.5} B"
        )


@dataclass(frozen=True)
class Weights:
    """Bytes of a checkpoint: as it lies, as it is loaded, and what one core gets of it."""

    stored: int
    loaded: int
    per_core: int


def cache_of(shape: Shape, fields: Mapping[str, Any], level: SdkLevel | None) -> Cache:
    """The cache that a model of this shape has on each core."""
    data_parallel = fields.get("attention_dp_degree") or 1
    layout = lay_heads(shape, fields["tp_degree"] // data_parallel or 1)
    if fields.get("is_prefix_caching"):
        slots, length = fields["pa_num_blocks"] + 1, fields["pa_block_size"]
    elif fields.get("is_chunked_prefill"):
        slots, length = fields["pa_num_blocks"], fields["pa_block_size"]
    else:
        slots = fields.get("kv_cache_batch_size", fields["batch_size"])
        slots += fields.get("kv_cache_padding_size") or 0
        length = _cache_length(shape, fields, level)
    return Cache(
        shape.layers, slots, length, layout.kv_heads_per_core, shape.head_dim, _cache_bits(fields)
    )


def weights_of(tensors: Iterable[TensorInfo], shape: Shape, fields: Mapping[str, Any]) -> Weights:
    """What a checkpoint takes, cast to ``torch_dtype`` or quantised as it will be.

    Matrices are divided over cores, vectors are on every core. Queries count with their padding,
    keys and values with their replication, tied embeddings twice: the head is a copy.
    """
    tensors = tuple(tensors)
    has_head = any(info.name == "lm_head.weight" for info in tensors)
    stored = loaded = per_core = 0
    for info in tensors:
        copies = 2 if shape.is_tied and not has_head and _is_embedding(info.name) else 1
        size = copies * math.prod(info.shape) * _bits(info, fields) // 8
        stored += info.nbytes
        loaded += size
        per_core += math.ceil(size * _share(info, shape, fields))
    return Weights(stored, loaded, per_core)


def _share(info: TensorInfo, shape: Shape, fields: Mapping[str, Any]) -> float:
    """The part of a tensor that one core holds, counting what is padded or replicated."""
    tp: int = fields["tp_degree"]
    if len(info.shape) < 2 or _is_router(info.name):
        return 1.0
    if ".experts." in info.name or "block_sparse_moe" in info.name:
        experts: int = fields.get("ep_degree") or 1
        return 1.0 / (tp * experts)
    module = _module(info.name)
    if module not in _ATTENTION:
        return 1.0 / tp
    heads = {"k_proj": shape.kv_heads, "v_proj": shape.kv_heads}.get(module, shape.heads)
    share = 0.0
    for degree in attention_degrees(fields):
        layout = lay_heads(shape, degree)
        laid = layout.kv_heads if module in ("k_proj", "v_proj") else layout.heads
        share += laid / heads / degree
    return share


def _cache_length(shape: Shape, fields: Mapping[str, Any], level: SdkLevel | None) -> int:
    length: int = fields["max_length"]
    windowed = level is None or level.since("2.27")
    if shape.sliding_window and windowed and shape.model_type in ("llama", "mistral"):
        length = shape.sliding_window
    if fields.get("flash_decoding_enabled"):
        group = max(min(fields["tp_degree"], shape.heads) // shape.kv_heads, 1)
        length = -(-length // group) + _FLASH_DECODING_PAD
    if fields.get("apply_seq_ids_mask"):
        length += _SEQUENCE_MASK_PAD
    return length


def _cache_bits(fields: Mapping[str, Any]) -> int:
    if fields.get("kv_cache_quant") or fields.get("kv_quant_config"):
        return 8
    return width(fields.get("attention_dtype") or fields["torch_dtype"])


def width(dtype: Any) -> int:
    """Bits of an element of a type by NeuronConfig's name for it; the widest where unknown."""
    return _WIDTHS.get(str(dtype).lower().removeprefix("torch."), 32)


def _bits(info: TensorInfo, fields: Mapping[str, Any]) -> int:
    if info.dtype not in _CAST:
        return DTYPE_BITS[info.dtype]
    if fields.get("quantized") and _is_quantized(info, fields):
        return width(fields.get("quantization_dtype"))
    if fields.get("cast_type", "config") == "as-declared":
        return DTYPE_BITS[info.dtype]
    return width(fields["torch_dtype"])


def _is_quantized(info: TensorInfo, fields: Mapping[str, Any]) -> bool:
    """Whether it belongs to a linear layer that no entry of modules_to_not_convert names."""
    if len(info.shape) < 2 or _is_embedding(info.name):
        return False
    name = info.name.removeprefix("model.")
    kept = fields.get("modules_to_not_convert") or ()
    return not any(name == entry or name.startswith(f"{entry}.") for entry in kept)


def _module(name: str) -> str:
    return name.rsplit(".", 2)[-2] if "." in name else name


def _is_embedding(name: str) -> bool:
    return _module(name) in ("embed_tokens", "wte")


def _is_router(name: str) -> bool:
    return _module(name) in ("gate", "router")
