"""Rotary tables against those of transformers, for every kind of scaling and real parameters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from neuron_artifacts.backends.cpu.arch import parse_arch
from neuron_artifacts.backends.cpu.rope import rope_tables
from tests.reference.golden import GOLDEN, read_tensors

DOCUMENT: dict[str, Any] = json.loads((GOLDEN / "rope.json").read_text(encoding="utf-8"))
TENSORS = read_tensors(GOLDEN / "rope.safetensors")
ROUNDING = 2.0**-23


@pytest.mark.parametrize("name", DOCUMENT["configs"])
def test_tables_are_those_of_transformers(name: str) -> None:
    """An angle is a float32: its last bit grows with the position, and so does what we allow."""
    positions = np.array(DOCUMENT["positions"])
    tables = rope_tables(parse_arch(DOCUMENT["configs"][name]), int(positions[-1]) + 1)
    frequencies = TENSORS[f"{name}.inv_freq"]
    allowed = 1e-6 + 2 * ROUNDING * positions[:, None] * frequencies[None, :]
    for table, part in zip(tables, ("cos", "sin"), strict=True):
        assert table.dtype == np.float32
        assert table.shape == (positions[-1] + 1, len(frequencies))
        assert (np.abs(table[positions] - TENSORS[f"{name}.{part}"]) <= allowed).all()
