"""A checkpoint's outline, and an oracle for what the doubles' device answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.worker import WorkerProcess

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


def next_token(tokens: Sequence[int], vocab: int = VOCAB) -> int:
    """What the doubles' device answers after ``tokens``; see ``neuron_double.Device``."""
    weights = range(1, len(tokens) + 1)
    total = sum(token * weight for token, weight in zip(tokens, weights, strict=True))
    return (total + len(tokens) - 1) % vocab


def chosen(payload: object, data: bytes, rows: int, vocab: int = VOCAB) -> list[int]:
    """The tokens of an answer, from logits or from the device."""
    if data:
        logits: NDArray[np.float32] = np.frombuffer(data, "<f4").reshape(rows, vocab)
        return [int(token) for token in logits.argmax(axis=1)]
    assert isinstance(payload, dict)
    return list(payload["tokens"])


def converse(worker: WorkerProcess, steps: Sequence[Sequence[int]], vocab: int = VOCAB) -> None:
    """Fill slots 0, 1 and 2, as far as there are so many, and let them answer in turn."""
    prompts = {0: [5, 6, 7], 2: [9], 1: [1, 2]}
    told = {slot: prompts[slot] for slot in prompts if slot < worker.facts["batch_size"]}
    for slot, tokens in told.items():
        payload, data = worker.call("prefill", {"slot": slot, "tokens": tokens, "start": 0})
        tokens.append(*chosen(payload, data, 1, vocab))
        assert tokens[-1] == next_token(tokens[:-1], vocab)
    for slots in steps:
        call = {
            "slots": slots,
            "tokens": [told[slot][-1] for slot in slots],
            "positions": [len(told[slot]) - 1 for slot in slots],
        }
        payload, data = worker.call("decode", call)
        for slot, token in zip(slots, chosen(payload, data, len(slots), vocab), strict=True):
            assert token == next_token(told[slot], vocab)
            told[slot].append(token)
