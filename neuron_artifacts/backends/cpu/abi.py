"""What a compiled graph and its host agree on: ``call_t`` of ``csrc/prelude.h``, a signature."""

from __future__ import annotations

import ctypes

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.ir import Compute, Phase, Storage
from neuron_artifacts.backends.cpu.layout import global_weights, layer_weights

VERSION = 1
"""Counts changes of the call structure, the exported names and the order of weights."""

ALIGNMENT = 64
STORAGE_CODES: dict[str, int] = {"F32": 32, "F16": 16, "BF16": 17}


class Call(ctypes.Structure):
    """Arguments of one run; shapes are in ``csrc/prelude.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "weights", "cosine", "sine", "keys", "values", "logits", "tokens", "slots",
            "positions", "scratch", "team",
        )),
        *((name, ctypes.c_int64) for name in ("seq_len", "slot_count", "rows", "logit_rows")),
    )  # fmt: skip


def signature(
    arch: Arch, phase: Phase, bucket: int, rows: int, storage: Storage, compute: Compute
) -> tuple[int, ...]:
    """The numbers a graph exports; a host with others would hand it memory of the wrong size."""
    return (
        VERSION,
        int(phase == "token_generation"),
        bucket,
        rows,
        arch.num_layers,
        arch.hidden_size,
        arch.intermediate_size,
        arch.num_heads,
        arch.num_kv_heads,
        arch.head_dim,
        arch.vocab_size,
        STORAGE_CODES[storage],
        cache_bits(compute),
        len(global_weights(arch)),
        len(layer_weights(arch)),
    )


def cache_bits(compute: Compute) -> int:
    """Bits of one number in the key/value cache."""
    return 32 if compute == "float32" else 16
