"""Stored floats and numpy's: safetensors' F32, F16 and BF16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Types that can be converted, with the bytes of an element."""


def widen(raw: bytes | NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """A float32 copy of stored numbers."""
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def encode(values: NDArray[np.float32], dtype: str) -> bytes:
    """Numbers as they are stored, rounded to nearest, ties to even."""
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40  # adding could turn a NaN into infinity
    return np.where(np.isnan(values), quiet, rounded).astype("<u2").tobytes()
