"""A double of torch as far as the workers go: integers in, logits out, over numpy.

Follows torch 2.8: ``torch.tensor``, indexing by a tensor, ``Tensor.to``, ``flatten``, ``numpy``.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np


class dtype:
    def __init__(self, name, kind):
        self.name, self.kind = name, kind

    def __repr__(self):
        return f"torch.{self.name}"


int32, int64 = dtype("int32", np.int32), dtype("int64", np.int64)
float16, float32 = dtype("float16", np.float16), dtype("float32", np.float32)
bfloat16 = dtype("bfloat16", np.float32)  # numpy has no bfloat16


class Tensor:
    def __init__(self, array, kind):
        self._array, self.dtype = array, kind

    @property
    def shape(self):
        return self._array.shape

    def __getitem__(self, index):
        return Tensor(self._array[_plain(index)], self.dtype)

    def to(self, kind):
        return Tensor(self._array.astype(kind.kind), kind)

    def flatten(self):
        return Tensor(self._array.reshape(-1), self.dtype)

    def contiguous(self):
        return self

    def tolist(self):
        return self._array.tolist()

    def numpy(self):
        if self.dtype is bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._array


def _plain(index):
    if isinstance(index, tuple):
        return tuple(map(_plain, index))
    return index._array if isinstance(index, Tensor) else index


def tensor(values, dtype):
    return Tensor(np.array(values, dtype=dtype.kind), dtype)


@contextmanager
def inference_mode():
    yield
