"""Read the golden models without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.model.safetensors_header import TensorInfo, read_header

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """Logits are ``(len(positions), vocab)``, with prompt and continuation as their input."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    positions: tuple[int, ...]
    float32: Floats
    bfloat16: Floats

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the model read: the last token of the continuation is only its answer."""
        return (*self.prompt, *self.continuation[:-1])


@dataclass(frozen=True)
class Golden:
    name: str
    model: Path
    config: Mapping[str, Any]
    answers: tuple[Answer, ...]

    def __str__(self) -> str:
        return self.name


def read_golden(name: str) -> Golden:
    folder = GOLDEN / name
    document = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    tensors = read_tensors(folder / "golden.safetensors")
    return Golden(
        name=name,
        model=folder / "model",
        config=json.loads((folder / "model" / "config.json").read_text(encoding="utf-8")),
        answers=tuple(
            Answer(
                prompt=tuple(answer["prompt"]),
                continuation=tuple(answer["continuation"]),
                positions=tuple(answer["positions"]),
                float32=tensors[f"{index}.float32"],
                bfloat16=tensors[f"{index}.bfloat16"],
            )
            for index, answer in enumerate(document["answers"])
        ),
    )


def golden_names() -> list[str]:
    return sorted(path.parent.name for path in GOLDEN.glob("*/golden.json"))


def read_tensors(path: Path) -> dict[str, Floats]:
    """All tensors of a safetensors file as float32; numpy alone has no bfloat16."""
    data = path.read_bytes()
    return {name: _floats(data, info) for name, info in read_header(path).items()}


def _floats(data: bytes, info: TensorInfo) -> Floats:
    raw = data[info.start : info.end]
    if info.dtype == "BF16":
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[info.dtype]).astype(np.float32)
    return values.reshape(info.shape)
