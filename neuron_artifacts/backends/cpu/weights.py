"""Which tensors a checkpoint must hold, how they are stored, and what must be done to its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.ir import Compute, Storage
from neuron_artifacts.backends.cpu.layout import pointer_table
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError
from neuron_artifacts.model.safetensors_header import TensorInfo

FLOAT_TYPES: dict[str, Storage] = {"F32": "F32", "BF16": "BF16", "F16": "F16"}
SHOWN = 3


@dataclass(frozen=True)
class WeightFile:
    """``link`` uses the checkpoint's file as it is, ``convert`` needs converting."""

    name: str
    action: Literal["link", "convert"]


def required_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor the graphs read."""
    return {weight.name: weight.shape for weight in pointer_table(arch)}


def check_tensors(arch: Arch, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse a checkpoint that does not fit its ``config.json``; other tensors are ignored.

    Raises
    ------
    ModelFormatError
        Tensors are missing or have another shape.
    UnsupportedModelError
        Tensors are stored in something else than float32, float16 or bfloat16.
    """
    required = required_tensors(arch)
    missing = [name for name in required if name not in tensors]
    if missing:
        raise ModelFormatError(
            f"the weights lack {_some(missing)}",
            hint="config.json and weights do not belong together, or a shard is missing",
        )
    wrong = [
        f"{name} is {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in required.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise ModelFormatError(
            f"the weights do not fit config.json: {_some(wrong)}",
            hint="config.json and weights do not belong together",
        )
    stored = {tensors[name].dtype for name in required} - FLOAT_TYPES.keys()
    if stored:
        raise UnsupportedModelError(
            f"weights are stored as {', '.join(sorted(stored))}",
            hint=f"the cpu backend reads {', '.join(FLOAT_TYPES)}",
        )


def choose_storage(tensors: Mapping[str, TensorInfo], compute: Compute) -> Storage:
    """How the graphs find matrices stored.

    For ``bfloat16`` always BF16. For ``float32`` as they are; where they are mixed, F32, which
    holds all of them exactly.
    """
    if compute == "bfloat16":
        return "BF16"
    stored = {FLOAT_TYPES[t.dtype] for t in tensors.values() if is_float_matrix(t)}
    return stored.pop() if len(stored) == 1 else "F32"


def plan_files(
    arch: Arch, tensors_by_file: Mapping[str, Mapping[str, TensorInfo]], compute: Compute
) -> list[WeightFile]:
    """What to do with each file of a checkpoint that holds a tensor the graphs read."""
    required = required_tensors(arch)
    everything = {name: info for file in tensors_by_file.values() for name, info in file.items()}
    storage = choose_storage(everything, compute)
    plan = []
    for name, tensors in tensors_by_file.items():
        read = [info for tensor, info in tensors.items() if tensor in required]
        if read:
            fits = all(info.dtype == storage for info in read if is_float_matrix(info))
            plan.append(WeightFile(name, "link" if fits else "convert"))
    return plan


def is_float_matrix(info: TensorInfo) -> bool:
    return len(info.shape) == 2 and info.dtype in FLOAT_TYPES


def _some(items: list[str]) -> str:
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
