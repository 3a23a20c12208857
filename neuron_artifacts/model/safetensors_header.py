"""Read and check the header of a safetensors file without loading a tensor.

Format: an unsigned little-endian 64-bit length, that many bytes of JSON mapping tensor names to
``{"dtype", "shape", "data_offsets"}``, then the data; the regions are contiguous and cover the
rest of the file (https://github.com/huggingface/safetensors#format). The header alone proves
that a file was not cut short, long before a compiler runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import load_json_object, shorten, stat_regular
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
        stat_regular(path)  # opening a pipe would wait for whoever writes into it
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            head += file.read(header_end(head, size, path) - 8)
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    return parse_header(head, size, path)


def header_end(head: bytes, size: int, where: str | Path) -> int:
    """Offset of the first data byte of a file of ``size`` bytes that starts with ``head``.

    ``where`` names the file in errors.

    Raises
    ------
    ModelFormatError
        The file is too short, or the declared header does not fit in it or is absurd.
    """
    if len(head) < 8 or size < 8:
        raise _bad(where, f"is {size} bytes long, too short for a safetensors file")
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise _bad(where, f"declares a header of {length} bytes; it is no safetensors file")
    if 8 + length > size:
        raise _bad(where, f"is cut short: header of {length} bytes in a file of {size}")
    return 8 + length


def parse_header(head: bytes, size: int, where: str | Path) -> dict[str, TensorInfo]:
    """Tensors of a file of ``size`` bytes, from its first :func:`header_end` bytes.

    Raises
    ------
    ModelFormatError
        The header is malformed, or promises more or fewer bytes than the file has.
    """
    data_start = header_end(head, size, where)
    if len(head) < data_start:
        raise _bad(where, f"is cut short: its header ends after {len(head)} bytes")
    try:
        header = load_json_object(head[8:data_start])
    except ValueError as error:
        raise _bad(where, f"has an unreadable header ({error})") from error
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_text_map(metadata):
        raise _bad(where, "has __metadata__ that does not map text to text")
    tensors = {name: _tensor(where, name, entry, data_start) for name, entry in header.items()}
    position = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if tensor.start != position:
            raise _bad(where, f"has a gap or overlap before tensor {shorten(tensor.name)}")
        position = tensor.end
    if position != size:
        word = "cut short" if position > size else "longer than its header says"
        raise _bad(where, f"is {word}: {size} bytes where the header promises {position}")
    return tensors


def _tensor(where: str | Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _bad(where, f"has a malformed entry for tensor {shorten(name)}") from error
    numbers = (*shape, begin, end) if isinstance(shape, list) else (None,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise _bad(where, f"has a malformed shape or offset for tensor {shorten(name)}")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _bad(where, f"has tensor {shorten(name)} of unknown dtype {shorten(dtype)}")
    bits = _count_elements(shape, 8 * (end - begin)) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != end - begin:
        raise _bad(where, f"has tensor {shorten(name)} whose bytes do not match its shape")
    return TensorInfo(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _count_elements(shape: list[int], limit: int) -> int:
    """The product, or what exceeds ``limit``: a long list makes a number that takes forever."""
    if 0 in shape:
        return 0
    count = 1
    for dim in shape:
        count *= dim
        if count > limit:
            break
    return count


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _bad(where: str | Path, what: str) -> ModelFormatError:
    return ModelFormatError(f"{where} {what}", hint="download or export this file again")
