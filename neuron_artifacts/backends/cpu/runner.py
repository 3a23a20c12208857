"""Run compiled graphs: map weights, keep the cache, check every index before C sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.backends.cpu import abi
from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.backends.cpu.cores import usable_cores
from neuron_artifacts.backends.cpu.ir import Compute, Phase
from neuron_artifacts.backends.cpu.loaded import LoadedGraph
from neuron_artifacts.backends.cpu.mapped import MappedWeights, Region
from neuron_artifacts.backends.cpu.rope import rope_tables
from neuron_artifacts.backends.runner import Logits
from neuron_artifacts.errors import (
    ContextLengthError,
    IncompatibleError,
    IncompleteError,
    RequestError,
    ResourceError,
)

THREAD_BYTES = 8 << 20
"""Weights that make one more thread worth meeting at every barrier."""

Ints = NDArray[np.int32]


class CpuRunner:
    """The :class:`~neuron_artifacts.backends.runner.Runner` of the cpu backend.

    Cache layout: ``(2, layers, slots, kv_heads, seq_len, head_dim)``, keys then values.
    """

    def __init__(
        self,
        graphs: Mapping[tuple[Phase, int], LoadedGraph],
        weights: MappedWeights,
        arch: Arch,
        *,
        batch_size: int,
        seq_len: int,
        max_context_length: int,
        compute: Compute,
        threads: int,
        stack: ExitStack,
    ) -> None:
        self._graphs, self._weights, self._arch = graphs, weights, arch
        self.batch_size, self.seq_len = batch_size, seq_len
        self.max_context_length, self.vocab_size = max_context_length, arch.vocab_size
        self.context_encoding_buckets = _buckets(graphs, "context_encoding")
        self.token_generation_buckets = _buckets(graphs, "token_generation")
        self._stack = stack
        self._team, self.threads = self._open_team(threads)
        shape = (2, arch.num_layers, batch_size, arch.num_kv_heads, seq_len, arch.head_dim)
        self._cache = self._region(shape, abi.cache_bits(compute) // 8, "the key/value cache")
        self._keys, self._values = (half.ctypes.data for half in self._cache.numbers)
        scratch = max(graph.scratch_bytes(self.threads) for graph in graphs.values())
        self._scratch = self._region((scratch,), 1, "intermediate results")
        self._cosine, self._sine = rope_tables(arch, seq_len)

    @classmethod
    def open(
        cls,
        *,
        graphs: Mapping[tuple[str, int], Path],
        weights: Sequence[Path],
        arch: Arch,
        batch_size: int,
        seq_len: int,
        max_context_length: int,
        compute: Compute,
        threads: int | None = None,
    ) -> CpuRunner:
        """Load graphs and map weights; ``threads`` defaults to the cores this process may use.

        Raises
        ------
        CorruptError, IncompatibleError
            A graph is missing, is none of ours, or belongs to another model or processor.
        ModelFormatError
            The weights do not fit ``arch``.
        ResourceError
            The system refuses the memory.
        """
        with ExitStack() as stack:
            mapped = MappedWeights(weights, arch)
            stack.callback(mapped.close)
            loaded = {}
            for (phase, bucket), path in graphs.items():
                kind = _phase(phase)
                rows = bucket if kind == "context_encoding" else batch_size
                expected = abi.signature(arch, kind, bucket, rows, mapped.storage, compute)
                loaded[kind, bucket] = LoadedGraph(path, expected)
                stack.callback(loaded[kind, bucket].close)
            if threads is None:
                threads = min(usable_cores(), max(1, mapped.nbytes // THREAD_BYTES))
            runner = cls(
                loaded, mapped, arch, batch_size=batch_size, seq_len=seq_len,
                max_context_length=max_context_length, compute=compute, threads=max(1, threads),
                stack=stack,
            )  # fmt: skip
            runner._stack = stack.pop_all()
        return runner

    def prefill(
        self, slot: int, tokens: Sequence[int], start: int, *, all_logits: bool = False
    ) -> Logits:
        count = len(tokens)
        ids = _indices("token", tokens, self.vocab_size)
        slots = _indices("slot", [slot], self.batch_size)
        largest = self.context_encoding_buckets[-1]
        if not 1 <= count <= largest:
            raise ContextLengthError(
                f"{count} tokens at once do not fit context encoding, which takes 1 to {largest}"
            )
        if not 0 <= start <= self.seq_len - count:
            raise ContextLengthError(
                f"{count} tokens from position {start} do not fit seq_len {self.seq_len}"
            )
        bucket = next(b for b in self.context_encoding_buckets if b >= count)
        positions = np.array([start], np.int32)
        logits = np.empty((count if all_logits else 1, self.vocab_size), np.float32)
        self._run("context_encoding", bucket, ids, slots, positions, logits)
        return logits if all_logits else logits[0]

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        count = len(slots)
        if not 1 <= count == len(tokens) == len(positions) or len(set(slots)) != count:
            raise RequestError(
                f"decoding needs distinct slots with a token and a position each, got {count} "
                f"slots, {len(tokens)} tokens and {len(positions)} positions"
            )
        limit = min(self.seq_len, self.token_generation_buckets[-1])
        rows = _indices("slot", slots, self.batch_size)
        ids = _indices("token", tokens, self.vocab_size)
        places = _indices("position", positions, limit)
        bucket = next(b for b in self.token_generation_buckets if b > max(positions))
        logits = np.empty((count, self.vocab_size), np.float32)
        self._run("token_generation", bucket, ids, rows, places, logits)
        return logits

    def warm_up(self) -> None:
        first = self._cache.numbers[:, :, 0, :, 0]
        kept = first.copy()
        zero = np.zeros(1, np.int32)
        logits = np.empty((1, self.vocab_size), np.float32)
        for phase, bucket in self._graphs:
            self._run(phase, bucket, zero, zero, zero, logits)
        first[...] = kept
        self._weights.touch()

    def close(self) -> None:
        self._stack.close()

    def _run(
        self, phase: Phase, bucket: int, tokens: Ints, slots: Ints, positions: Ints, logits: Logits
    ) -> None:
        call = abi.Call(
            weights=self._weights.address,
            cosine=self._cosine.ctypes.data,
            sine=self._sine.ctypes.data,
            keys=self._keys,
            values=self._values,
            logits=logits.ctypes.data,
            tokens=tokens.ctypes.data,
            slots=slots.ctypes.data,
            positions=positions.ctypes.data,
            scratch=self._scratch.address,
            team=self._team,
            seq_len=self.seq_len,
            slot_count=self.batch_size,
            rows=len(tokens),
            logit_rows=len(logits),
        )
        self._graphs[phase, bucket].run(call)

    def _open_team(self, threads: int) -> tuple[int, int]:
        graph = next(iter(self._graphs.values()))
        team = graph.open_team(threads)
        if not team:
            raise ResourceError(f"no memory for {threads} threads")
        self._stack.callback(graph.close_team, team)
        return team, graph.team_threads(team)

    def _region(self, shape: tuple[int, ...], width: int, what: str) -> Region:
        region = Region(shape, width, what)
        self._stack.callback(region.close)
        return region


def _phase(name: str) -> Phase:
    if name == "context_encoding":
        return "context_encoding"
    if name == "token_generation":
        return "token_generation"
    raise IncompatibleError(f"there is no phase {name!r}")


def _buckets(graphs: Mapping[tuple[Phase, int], LoadedGraph], phase: Phase) -> tuple[int, ...]:
    buckets = tuple(sorted(bucket for kind, bucket in graphs if kind == phase))
    if not buckets:
        raise IncompleteError(f"there is no graph for {phase}")
    return buckets


def _indices(what: str, values: Sequence[int], limit: int) -> Ints:
    """The values as C reads them, every one within ``0 <= value < limit``."""
    for value in values:
        if not 0 <= value < limit:
            raise RequestError(f"{what} {value} is out of range, there are {limit}")
    return np.array(values, np.int32)
