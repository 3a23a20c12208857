"""Heads over cores: NxD Inference's own examples, and what must hold for any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_artifacts.backends.nxdi.preflight.heads import lay_heads
from neuron_artifacts.backends.nxdi.preflight.subject import Shape, read_shape
from tests.backends.nxdi.preflight.requests import LLAMA_8B


def shape(heads: int, kv_heads: int) -> Shape:
    read = read_shape({**LLAMA_8B, "num_attention_heads": heads, "num_key_value_heads": kv_heads})
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("heads", "kv_heads", "degree", "expected"),
    [
        (56, 8, 32, (64, 32, 1)),  # the example of GQA.REPLICATE_TO_TP_DEGREE
        (32, 8, 8, (32, 8, 1)),
        (32, 8, 2, (32, 8, 4)),
        (32, 8, 32, (32, 32, 1)),
        (32, 8, 64, (64, 64, 1)),
        (12, 2, 4, (12, 4, 1)),
        (12, 3, 4, (12, 12, 3)),  # 4 is no multiple of 3: one for each query head
        (28, 4, 8, (32, 8, 1)),
        (40, 40, 16, (48, 48, 3)),  # no sharing: padded like the queries
        (32, 8, 1, (32, 8, 8)),
    ],
)
def test_a_layout(heads: int, kv_heads: int, degree: int, expected: tuple[int, int, int]) -> None:
    layout = lay_heads(shape(heads, kv_heads), degree)
    assert (layout.heads, layout.kv_heads, layout.kv_heads_per_core) == expected


@given(st.integers(1, 16), st.integers(1, 8), st.integers(1, 128))
def test_every_head_has_a_place(kv_heads: int, group: int, degree: int) -> None:
    heads = kv_heads * group
    layout = lay_heads(shape(heads, kv_heads), degree)
    assert layout.heads % degree == 0
    assert heads <= layout.heads < heads + degree
    assert layout.kv_heads % degree == 0
    assert layout.kv_heads >= kv_heads
