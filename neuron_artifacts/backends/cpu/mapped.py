"""Memory the graphs read and write: mapped checkpoints and anonymous regions."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.ir import Storage
from neuron_artifacts.backends.cpu.layout import Weight, pointer_table
from neuron_artifacts.backends.cpu.weights import FLOAT_TYPES, check_tensors
from neuron_artifacts.errors import CorruptError, ResourceError
from neuron_artifacts.model.floats import widen
from neuron_artifacts.model.safetensors_header import TensorInfo, read_header

HUGE_PAGE = 2 << 20


class Region:
    """Zeroed anonymous memory for ``shape`` numbers of ``width`` bytes; pages come when touched."""

    def __init__(self, shape: tuple[int, ...], width: int, what: str) -> None:
        size = width * math.prod(shape)
        try:
            self._map = mmap.mmap(-1, size)
        except (OSError, ValueError, OverflowError) as error:
            raise ResourceError(
                f"{size / (1 << 30):.1f} GiB of memory for {what} cannot be had",
                hint="lower seq_len or batch_size",
            ) from error
        if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.numbers = np.frombuffer(self._map, f"<u{width}").reshape(shape)

    @property
    def address(self) -> int:
        return _address(self.numbers)

    def close(self) -> None:
        del self.numbers
        self._map.close()


class MappedWeights:
    """A checkpoint's files, mapped read-only, and the pointer table into them.

    Matrices are used where they lie. Vectors (norms, biases) are copied to float32.

    Raises
    ------
    ModelFormatError, UnsupportedModelError
        As :func:`check_tensors` and :func:`read_header`.
    CorruptError
        Matrices are stored in more than one way, so no graph can read them.
    """

    def __init__(self, files: Sequence[Path], arch: Arch) -> None:
        self._maps: list[mmap.mmap] = []
        self._views: dict[str, NDArray[np.uint8]] = {}
        self._vectors: dict[str, NDArray[np.float32]] = {}
        tensors: dict[str, TensorInfo] = {}
        for path in files:
            header = read_header(path)
            tensors |= header
            self._map(path, header)
        check_tensors(arch, tensors)
        table = pointer_table(arch)
        self.storage = _one_storage(table, tensors)
        addresses = [self._place(weight, tensors[weight.name]) for weight in table]
        self._table = np.array(addresses, np.uint64)

    @property
    def address(self) -> int:
        return _address(self._table)

    @property
    def nbytes(self) -> int:
        return sum(len(view) for view in self._views.values())

    def touch(self) -> None:
        """Read every page once, so that no later run waits for the disk."""
        for view in self._views.values():
            int(view[:: mmap.PAGESIZE].max(initial=0))

    def close(self) -> None:
        self._views.clear()
        self._vectors.clear()
        while self._maps:
            self._maps.pop().close()

    def _map(self, path: Path, header: dict[str, TensorInfo]) -> None:
        if not header:
            return
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        if hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)
        data = np.frombuffer(mapped, np.uint8)
        for info in header.values():
            self._views[info.name] = data[info.start : info.end]

    def _place(self, weight: Weight, info: TensorInfo) -> int:
        view = self._views[weight.name]
        if weight.kind == "matrix":
            return _address(view)
        if weight.name not in self._vectors:
            self._vectors[weight.name] = widen(view, info.dtype)
        return _address(self._vectors[weight.name])


def _one_storage(table: Sequence[Weight], tensors: dict[str, TensorInfo]) -> Storage:
    stored = {tensors[weight.name].dtype for weight in table if weight.kind == "matrix"}
    if len(stored) > 1:
        raise CorruptError(f"weight matrices are stored as {' and '.join(sorted(stored))}")
    return FLOAT_TYPES[stored.pop()]


def _address(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)
