"""Read and check the header of a safetensors file without loading a tensor.

Format: an unsigned little-endian 64-bit length, that many bytes of JSON mapping tensor names to
``{"dtype", "shape", "data_offsets"}``, then the data; the regions are contiguous and cover the
rest of the file (https://github.com/huggingface/safetensors#format). The header alone proves
that a file was not cut short, long before a compiler runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import ModelFormatError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the reference implementation; a larger header is refused unread."""

DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "BOOL": 8, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: ``start``/``end`` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one file by name.

    Raises
    ------
    ModelFormatError
        The file is truncated, too long, or its header is not what the format promises.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw_length = file.read(8)
            if len(raw_length) < 8:
                raise _bad(path, f"is {size} bytes long, too short for a safetensors file")
            length = int.from_bytes(raw_length, "little")
            if length > MAX_HEADER_BYTES:
                raise _bad(path, f"declares a header of {length} bytes; it is no safetensors file")
            if 8 + length > size:
                raise _bad(path, f"is cut short: header of {length} bytes in a file of {size}")
            raw = file.read(length)
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    return _parse(path, raw, 8 + length, size)


def _parse(path: Path, raw: bytes, data_start: int, size: int) -> dict[str, TensorInfo]:
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"has an unreadable header ({error})") from error
    if not isinstance(header, dict):
        raise _bad(path, "has a header that is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, data_start) for name, entry in header.items()}
    position = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if tensor.start != position:
            raise _bad(path, f"has a gap or overlap before tensor {tensor.name!r}")
        position = tensor.end
    if position != size:
        word = "cut short" if position > size else "longer than its header says"
        raise _bad(path, f"is {word}: {size} bytes where the header promises {position}")
    return tensors


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _bad(path, f"has a malformed entry for tensor {name!r}") from error
    numbers = (*shape, begin, end) if isinstance(shape, list) else (None,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise _bad(path, f"has a malformed shape or offset for tensor {name!r}")
    if dtype not in DTYPE_BITS:
        raise _bad(path, f"has tensor {name!r} of unknown dtype {dtype!r}")
    count = 1
    for dim in shape:
        count *= dim
    if end < begin or (count * DTYPE_BITS[dtype] + 7) // 8 != end - begin:
        raise _bad(path, f"has tensor {name!r} whose bytes do not match its shape")
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _bad(path: Path, what: str) -> ModelFormatError:
    return ModelFormatError(f"{path} {what}", hint="download or export this file again")
