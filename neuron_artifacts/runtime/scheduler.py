"""Which sequence holds which slot, and what the next step runs. Decides; runs nothing."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from neuron_artifacts.runtime.sequence import Sequence


@dataclass(frozen=True)
class Chunk:
    """Part of a prompt to run in one call."""

    sequence: Sequence
    tokens: list[int]
    start: int


@dataclass(frozen=True)
class StepPlan:
    """One step: a token for each sequence that is generating, and at most one prompt chunk."""

    decode: tuple[Sequence, ...]
    chunk: Chunk | None


class Scheduler:
    """First come, first served over a fixed number of slots.

    A prompt that fills several chunks takes several steps, and sequences that are generating
    get a token in each of them. Slots are given out lowest first.
    """

    def __init__(self, slots: int, largest_chunk: int) -> None:
        self._largest_chunk = largest_chunk
        self._free = list(range(slots))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences that are not finished, running ones first."""
        yield from self._running
        yield from self._waiting

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def used_positions(self) -> int:
        return sum(sequence.position for sequence in self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Give free slots to those who wait; returns who got one."""
        admitted = []
        while self._waiting and self._free:
            sequence = self._waiting.popleft()
            sequence.slot = heapq.heappop(self._free)
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self) -> StepPlan:
        """What to run next, for the sequences that hold slots."""
        decode = tuple(sequence for sequence in self._running if not sequence.in_prompt)
        reading = next((sequence for sequence in self._running if sequence.in_prompt), None)
        if reading is None:
            return StepPlan(decode, None)
        start = reading.position
        tokens = reading.prompt[start : start + self._largest_chunk]
        return StepPlan(decode, Chunk(reading, tokens, start))

    def release(self, sequence: Sequence) -> None:
        """Take a finished sequence out; its slot is free at once."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = None
