"""The graph description between a model and C: typed operations on values with shapes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.targets import Target

Phase = Literal["context_encoding", "token_generation"]
Storage = Literal["F32", "BF16", "F16"]
Compute = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Value:
    """An intermediate result, ``(rows, features)``."""

    name: str
    dtype: Compute
    shape: tuple[int, int]


@dataclass(frozen=True)
class Matrix:
    """A stored weight matrix by its slot in the pointer table, and the slot of its bias."""

    slot: str
    rows: int
    columns: int
    bias: str | None = None


@dataclass(frozen=True)
class Embed:
    """Rows of a table, by token id."""

    table: Matrix
    out: Value


@dataclass(frozen=True)
class Norm:
    """RMSNorm of every row."""

    weight: str
    epsilon: float
    source: Value
    out: Value


@dataclass(frozen=True)
class Project:
    """``out = source @ matrix.T + bias``, results of several matrices side by side.

    With ``accumulate`` the results are added to what ``out`` holds: the residual stream.
    """

    matrices: tuple[Matrix, ...]
    source: Value
    out: Value
    accumulate: bool = False


@dataclass(frozen=True)
class Attend:
    """Head norms, rotation, cache update and causal attention over the slot's cache.

    ``windows`` is ``None`` where no layer has one, else one entry a layer.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    norms: tuple[str, str] | None
    windows: tuple[int | None, ...] | None
    cache_dtype: Compute
    source: Value
    out: Value


@dataclass(frozen=True)
class Gate:
    """``out = silu(source @ gate.T) * (source @ up.T)``."""

    gate: Matrix
    up: Matrix
    source: Value
    out: Value


@dataclass(frozen=True)
class Select:
    """The rows whose logits are wanted, normed: those that the call names, at the end."""

    weight: str
    epsilon: float
    source: Value
    out: Value


Op = Embed | Norm | Project | Attend | Gate | Select


@dataclass(frozen=True)
class Graph:
    """One phase and bucket. ``layer`` runs ``arch.num_layers`` times, each with its own weights.

    ``rows`` is how many tokens run at once: the bucket in context encoding, the batch in token
    generation, where the bucket bounds the positions attended to.
    """

    arch: Arch
    phase: Phase
    bucket: int
    rows: int
    before: tuple[Op, ...]
    layer: tuple[Op, ...]
    after: tuple[Op, ...]
    global_slots: tuple[str, ...]
    layer_slots: tuple[str, ...]
    storage: Storage
    compute: Compute
    target: Target


def describe(graph: Graph) -> dict[str, Any]:
    """A JSON-able description, for people and for tests."""

    def ops(items: tuple[Op, ...]) -> list[dict[str, Any]]:
        return [{"op": type(op).__name__.lower(), **asdict(op)} for op in items]

    return {
        "phase": graph.phase,
        "bucket": graph.bucket,
        "rows": graph.rows,
        "num_layers": graph.arch.num_layers,
        "storage": graph.storage,
        "compute": graph.compute,
        "target": graph.target.name,
        "before": ops(graph.before),
        "layer": ops(graph.layer),
        "after": ops(graph.after),
    }
