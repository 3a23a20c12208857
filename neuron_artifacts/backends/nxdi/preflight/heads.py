"""How attention heads are laid over cores: padding of queries, replication of keys and values.

Source: ``determine_sharding_strategy`` and ``get_shardable_head_counts`` in
``modules/attention/gqa.py`` of neuronx-distributed-inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.backends.nxdi.preflight.subject import Shape


@dataclass(frozen=True)
class HeadLayout:
    """Heads after padding and replication, over ``degree`` cores."""

    degree: int
    heads: int
    kv_heads: int

    @property
    def kv_heads_per_core(self) -> int:
        return -(-self.kv_heads // self.degree)


def lay_heads(shape: Shape, degree: int) -> HeadLayout:
    """Query heads are padded up to a multiple of ``degree``.

    Key-value heads that do not divide evenly are replicated to one a core, or, where ``degree``
    is no multiple of their number, to one for each query head.
    """
    heads = -(-shape.heads // degree) * degree
    if shape.heads == shape.kv_heads:
        return HeadLayout(degree, heads, heads)
    if shape.kv_heads % degree == 0:
        return HeadLayout(degree, heads, shape.kv_heads)
    return HeadLayout(degree, heads, degree if degree % shape.kv_heads == 0 else heads)


def attention_degrees(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Over how many cores attention is divided: prefilling and decoding may each have weights.

    Source: ``modules/attention/attention_base.py``, where the two differ if ``cp_degree`` and
    ``attention_dp_degree`` do.
    """
    tp = fields["tp_degree"]
    others = (fields.get("cp_degree") or 1, fields.get("attention_dp_degree") or 1)
    return tuple(sorted({tp // other or 1 for other in others}))
