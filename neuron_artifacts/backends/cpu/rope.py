"""Rotary embedding tables, as transformers computes them (``modeling_rope_utils.py``)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.backends.cpu.arch import Arch, Rope

Floats = NDArray[np.float32]


def rope_tables(arch: Arch, seq_len: int) -> tuple[Floats, Floats]:
    """Cosines and sines, each of shape ``(seq_len, head_dim / 2)``, attention factor included.

    Frequencies and angles are rounded to float32 exactly where transformers rounds them: at
    position 10000 a last bit of the frequency is already a thousandth of the angle.
    """
    frequencies, scale = _frequencies(arch.rope, arch.head_dim)
    positions = np.arange(seq_len, dtype=np.float32)
    angles = (positions[:, None] * frequencies[None, :]).astype(np.float64)
    factor = np.float32(scale)
    cosines = np.cos(angles).astype(np.float32) * factor
    sines = np.sin(angles).astype(np.float32) * factor
    return np.ascontiguousarray(cosines), np.ascontiguousarray(sines)


def _frequencies(rope: Rope, head_dim: int) -> tuple[Floats, float]:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    periods = (np.float64(rope.theta) ** exponents.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / periods
    if rope.type == "linear":
        return plain / np.float32(rope.factor), 1.0
    if rope.type == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.type == "yarn":
        return _yarn(rope, periods, head_dim), _yarn_attention_factor(rope)
    return plain, 1.0


def _llama3(rope: Rope, plain: Floats) -> Floats:
    """Long wavelengths are stretched by ``factor``, short ones kept, those between blended."""
    context = rope.original_max_position_embeddings
    wavelengths = np.float32(2 * math.pi) / plain
    stretched = plain / np.float32(rope.factor)
    spread = np.float32(rope.high_freq_factor - rope.low_freq_factor)
    blend = (np.float32(context) / wavelengths - np.float32(rope.low_freq_factor)) / spread
    blended = (1 - blend) * plain / np.float32(rope.factor) + blend * plain
    long = wavelengths > context / rope.low_freq_factor
    short = wavelengths < context / rope.high_freq_factor
    return np.where(long, stretched, np.where(short, plain, blended)).astype(np.float32)


def _yarn(rope: Rope, periods: Floats, head_dim: int) -> Floats:
    """YaRN (https://arxiv.org/abs/2309.00071): interpolate slow dimensions, keep fast ones."""

    def dimension(rotations: float) -> float:
        turns = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    steps = np.arange(head_dim // 2, dtype=np.float32)
    ramp = np.clip((steps - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    keep = 1 - ramp
    interpolated = np.float32(1) / (np.float32(rope.factor) * periods)
    mixed = interpolated * (1 - keep) + (np.float32(1) / periods) * keep
    return np.asarray(mixed, np.float32)


def _yarn_attention_factor(rope: Rope) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def mscale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)
