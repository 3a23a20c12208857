"""Which tensors a checkpoint must hold, how they are stored, and files that need converting."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.ir import Compute, Storage
from neuron_artifacts.backends.cpu.layout import pointer_table
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError
from neuron_artifacts.model.safetensors_header import TensorInfo, read_header

FLOAT_TYPES: dict[str, Storage] = {"F32": "F32", "BF16": "BF16", "F16": "F16"}
CONVERT_ELEMENTS = 1 << 20
"""Elements converted at a time: a few megabytes of memory, whatever the size of a tensor."""

SHOWN = 3


@dataclass(frozen=True)
class WeightFile:
    """``link`` uses the checkpoint's file as it is, ``convert`` needs :func:`convert_file`."""

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
    stored = {FLOAT_TYPES[t.dtype] for t in tensors.values() if _is_float_matrix(t)}
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
            fits = all(info.dtype == storage for info in read if _is_float_matrix(info))
            plan.append(WeightFile(name, "link" if fits else "convert"))
    return plan


def convert_file(source: Path, destination: Path, storage: Storage) -> None:
    """Copy a safetensors file with its float matrices stored as ``storage``, the rest unchanged.

    Rounds to nearest, ties to even. Streams in bounded memory; the same input gives the same bytes.
    """
    tensors = sorted(read_header(source).values(), key=lambda info: (info.start, info.end))
    header = _header(tensors, storage)
    with source.open("rb") as reader, destination.open("wb") as writer:
        writer.write(len(header).to_bytes(8, "little") + header)
        for info in tensors:
            dtype = storage if _is_float_matrix(info) else info.dtype
            for block in _blocks(reader, info):
                writer.write(block if dtype == info.dtype else _encode(_decode(block, info), dtype))
        writer.flush()
        os.fsync(writer.fileno())


def widen(raw: memoryview, dtype: str) -> NDArray[np.float32]:
    """A float32 copy of stored numbers."""
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _is_float_matrix(info: TensorInfo) -> bool:
    return len(info.shape) == 2 and info.dtype in FLOAT_TYPES


def _header(tensors: list[TensorInfo], storage: Storage) -> bytes:
    entries, position = {}, 0
    for info in tensors:
        dtype, size = info.dtype, info.nbytes
        if _is_float_matrix(info):
            dtype, size = storage, info.shape[0] * info.shape[1] * _width(storage)
        entries[info.name] = {
            "dtype": dtype,
            "shape": list(info.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    raw = json.dumps(entries, separators=(",", ":")).encode()
    return raw + b" " * (-len(raw) % 64)


def _blocks(reader: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    reader.seek(info.start)
    left = info.nbytes
    while left:
        block = reader.read(min(left, CONVERT_ELEMENTS * 4))
        if not block:
            raise ModelFormatError(f"{reader.name} became shorter while it was read")
        left -= len(block)
        yield block


def _decode(block: bytes, info: TensorInfo) -> NDArray[np.float32]:
    return widen(memoryview(block), info.dtype)


def _encode(values: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40  # adding could turn a NaN into infinity
    return np.where(np.isnan(values), quiet, rounded).astype("<u2").tobytes()


def _width(dtype: str) -> int:
    return 4 if dtype == "F32" else 2


def _some(items: list[str]) -> str:
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
