"""Numbers from one storage into another: whole files at build time, small tensors when loading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts._files import sync
from neuron_artifacts.backends.cpu.ir import Storage
from neuron_artifacts.backends.cpu.weights import is_float_matrix
from neuron_artifacts.errors import ModelFormatError
from neuron_artifacts.model.floats import FLOAT_BYTES, encode, widen
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
        size = writer.write(len(header).to_bytes(8, "little") + header)
        for info in tensors:
            dtype = storage if is_float_matrix(info) else info.dtype
            for block in _blocks(reader, info):
                size += writer.write(
                    block if dtype == info.dtype else encode(_decode(block, info), dtype)
                )
        writer.flush()
        sync(writer, size)


def _header(tensors: list[TensorInfo], storage: Storage) -> bytes:
    entries, position = {}, 0
    for info in tensors:
        dtype, size = info.dtype, info.nbytes
        if is_float_matrix(info):
            dtype, size = storage, info.shape[0] * info.shape[1] * FLOAT_BYTES[storage]
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
