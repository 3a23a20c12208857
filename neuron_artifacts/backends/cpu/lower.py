"""From an architecture and a bucket to a graph description."""

from __future__ import annotations

import math

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.ir import (
    Attend,
    Compute,
    Embed,
    Gate,
    Graph,
    Matrix,
    Norm,
    Op,
    Phase,
    Project,
    Select,
    Storage,
    Value,
)
from neuron_artifacts.backends.cpu.layout import global_weights, layer_weights
from neuron_artifacts.backends.cpu.targets import Target


def lower(
    arch: Arch,
    phase: Phase,
    bucket: int,
    *,
    batch_size: int,
    storage: Storage,
    compute: Compute,
    target: Target,
) -> Graph:
    """Describe one graph.

    What may change without compiling again is no part of it: the number of slots and ``seq_len``
    are arguments of a run, and only token generation knows ``batch_size``.

    ``compute`` of ``bfloat16`` means a bfloat16 cache everywhere, and bfloat16 activations in
    matrix products where the target multiplies them natively; sums are float32 always.
    """
    rows = bucket if phase == "context_encoding" else batch_size
    build = _Builder(arch, rows, "bfloat16" if _native_bf16(compute, target) else "float32")
    last = build.select() if phase == "context_encoding" else build.norm("FINAL_NORM")
    return Graph(
        arch=arch,
        phase=phase,
        bucket=bucket,
        rows=rows,
        before=(build.embed(),),
        layer=build.layer(compute),
        after=(last, build.head(last.out)),
        global_slots=tuple(weight.slot for weight in global_weights(arch)),
        layer_slots=tuple(weight.slot for weight in layer_weights(arch)),
        storage=storage,
        compute=compute,
        target=target,
    )


def _native_bf16(compute: Compute, target: Target) -> bool:
    return compute == "bfloat16" and target.bf16_dot


class _Builder:
    def __init__(self, arch: Arch, rows: int, activations: Compute) -> None:
        self.arch = arch
        weights = (*global_weights(arch), *layer_weights(arch))
        self.shapes = {weight.slot: weight.shape for weight in weights}
        width = arch.num_heads + 2 * arch.num_kv_heads
        queries = arch.num_heads * arch.head_dim

        self.residual = Value("residual", "float32", (rows, arch.hidden_size))
        self.normed = Value("normed", activations, (rows, arch.hidden_size))
        self.qkv = Value("qkv", "float32", (rows, width * arch.head_dim))
        self.attended = Value("attended", activations, (rows, queries))
        self.gated = Value("gated", activations, (rows, arch.intermediate_size))
        self.last = Value("last", activations, (rows, arch.hidden_size))
        self.logits = Value("logits", "float32", (rows, arch.vocab_size))

    def matrix(self, slot: str) -> Matrix:
        rows, columns = self.shapes[slot]
        bias = f"{slot}_BIAS"
        return Matrix(slot, rows, columns, bias if bias in self.shapes else None)

    def embed(self) -> Embed:
        return Embed(self.matrix("EMBEDDING"), self.residual)

    def norm(self, slot: str) -> Norm:
        return Norm(slot, self.arch.rms_norm_eps, self.residual, self.normed)

    def layer(self, compute: Compute) -> tuple[Op, ...]:
        qkv = tuple(self.matrix(slot) for slot in ("Q", "K", "V"))
        return (
            self.norm("INPUT_NORM"),
            Project(qkv, self.normed, self.qkv),
            self.attend(compute),
            Project((self.matrix("O"),), self.attended, self.residual, accumulate=True),
            self.norm("POST_NORM"),
            Gate(self.matrix("GATE"), self.matrix("UP"), self.normed, self.gated),
            Project((self.matrix("DOWN"),), self.gated, self.residual, accumulate=True),
        )

    def attend(self, compute: Compute) -> Attend:
        arch = self.arch
        return Attend(
            heads=arch.num_heads,
            kv_heads=arch.num_kv_heads,
            head_dim=arch.head_dim,
            scale=1 / math.sqrt(arch.head_dim),
            norms=("Q_NORM", "K_NORM") if arch.qk_norm else None,
            windows=arch.windows if any(arch.windows) else None,
            cache_dtype=compute,
            source=self.qkv,
            out=self.attended,
        )

    def select(self) -> Select:
        return Select("FINAL_NORM", self.arch.rms_norm_eps, self.residual, self.last)

    def head(self, source: Value) -> Project:
        return Project((self.matrix("HEAD"),), source, self.logits)
