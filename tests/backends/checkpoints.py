"""A checkpoint's outline, and an oracle for what the doubles' device answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOCAB = 97


def write_checkpoint(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
        "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**fields, **config}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def next_token(tokens: Sequence[int]) -> int:
    """What the doubles' device answers after ``tokens``; see ``neuron_double.Device``."""
    weights = range(1, len(tokens) + 1)
    total = sum(token * weight for token, weight in zip(tokens, weights, strict=True))
    return (total + len(tokens) - 1) % VOCAB


def chosen(payload: object, data: bytes, rows: int) -> list[int]:
    """The tokens of an answer, from logits or from the device."""
    if data:
        logits: NDArray[np.float32] = np.frombuffer(data, "<f4").reshape(rows, VOCAB)
        return [int(token) for token in logits.argmax(axis=1)]
    assert isinstance(payload, dict)
    return list(payload["tokens"])
