"""Numbers from one storage into another: whole files at build time, small tensors when loading."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.backends.cpu.ir import Storage
from neuron_artifacts.backends.cpu.weights import is_float_matrix
from neuron_artifacts.errors import ModelFormatError
from neuron_artifacts.model.safetensors_header import TensorInfo, read_header

CONVERT_ELEMENTS = 1 << 20
"""Elements converted at a time: a few megabytes of memory, whatever the size of a tensor."""


def convert_file(source: Path, destination: Path, storage: Storage) -> None:
    """Copy a safetensors file with its float matrices stored as ``storage``, the rest unchanged.

    Rounds to nearest, ties to even. Streams in bounded memory; the same input gives the same bytes.
    """
    tensors = sorted(read_header(source).values(), key=lambda info: (info.start, info.end))
    header = _header(tensors, storage)
    with source.open("rb") as reader, destination.open("wb") as writer:
        writer.write(len(header).to_bytes(8, "little") + header)
        for info in tensors:
            dtype = storage if is_float_matrix(info) else info.dtype
            for block in _blocks(reader, info):
                writer.write(block if dtype == info.dtype else _encode(_decode(block, info), dtype))
        writer.flush()
        os.fsync(writer.fileno())


def widen(raw: bytes | NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """A float32 copy of stored numbers."""
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _header(tensors: list[TensorInfo], storage: Storage) -> bytes:
    entries, position = {}, 0
    for info in tensors:
        dtype, size = info.dtype, info.nbytes
        if is_float_matrix(info):
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
    return widen(block, info.dtype)


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
