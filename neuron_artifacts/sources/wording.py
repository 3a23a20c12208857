"""Short phrases that several sources report in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHAPE = ("batch_size", "seq_len", "tp_degree", "torch_dtype")


def count(number: int, name: str) -> str:
    """``1 graph``, ``2 graphs``."""
    return f"{number} {name}{'s' * (number != 1)}"


def show_seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def describe_artifact(neuron_config: Mapping[str, Any]) -> str:
    """The configuration that people tell artifacts apart by."""
    told = (f"{name}={neuron_config[name]}" for name in _SHAPE if name in neuron_config)
    return " ".join(told)


def describe_modules(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of a compile cache in one line."""
    return "; ".join(
        f"{count(row['done'], 'graph')} by {row['neuronxcc_version']}"
        + (f" for {row['target']}" if row.get("target") else "")
        for row in rows if row["done"]
    ) or "no finished graph"  # fmt: skip
