"""A runner with a small language model of its own, strict about slots and positions.

The model folds all tokens so far into a number and draws the logits from it, so one wrong,
missing or foreign cache line changes everything after it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from neuron_artifacts.backends.runner import Logits

START = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


class ToyRunner:
    """``calls`` lists what was run: ``("prefill", slot, start, count)`` or ``("decode", slots)``.

    ``poison`` makes a token whose presence as the last one turns the logits into NaN.
    """

    def __init__(
        self, *, batch_size: int = 4, seq_len: int = 64, max_context_length: int = 32,
        vocab_size: int = 96, buckets: tuple[int, ...] = (4, 8), poison: int | None = None,
        remembers: bool = True,
    ) -> None:  # fmt: skip
        self.batch_size, self.seq_len = batch_size, seq_len
        self.max_context_length, self.vocab_size = max_context_length, vocab_size
        self.context_encoding_buckets = buckets
        self.token_generation_buckets = (seq_len // 2, seq_len)
        self.poison = poison
        self.calls: list[tuple[object, ...]] = []
        self._remembers = remembers
        self.closed = False
        self._states: list[list[int]] = [[] for _ in range(batch_size)]
        self._thread: int | None = None

    def prefill(
        self, slot: int, tokens: Sequence[int], start: int, *, all_logits: bool = False
    ) -> Logits:
        self._enter("prefill", slot, start, len(tokens))
        if not 1 <= len(tokens) <= max(self.context_encoding_buckets):
            raise AssertionError(f"{len(tokens)} tokens in one chunk")
        if start == 0:
            self._states[slot] = []
        rows = [self._write(slot, token, start + i) for i, token in enumerate(tokens)]
        return np.stack(rows) if all_logits else rows[-1]

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        self._enter("decode", tuple(slots))
        if len(set(slots)) != len(slots) or not slots:
            raise AssertionError(f"slots {slots}")
        rows = zip(slots, tokens, positions, strict=True)
        return np.stack([self._write(slot, token, place) for slot, token, place in rows])

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def reference(self, tokens: Sequence[int]) -> Logits:
        """The logits after ``tokens``, without any slot."""
        state = START
        for token in tokens:
            state = self._fold(state, token)
        return self._logits(state, tokens[-1])

    def _enter(self, *call: object) -> None:
        if self.closed:
            raise AssertionError("used after close")
        if self._remembers:
            self.calls.append(call)
        self._thread = self._thread or threading.get_ident()
        if self._thread != threading.get_ident():
            raise AssertionError("used from two threads")

    def _write(self, slot: int, token: int, position: int) -> Logits:
        states = self._states[slot]
        if position != len(states) or position >= self.seq_len:
            raise AssertionError(f"slot {slot}: position {position} after {len(states)} written")
        states.append(self._fold(states[-1] if states else START, token))
        return self._logits(states[-1], token)

    def _fold(self, state: int, token: int) -> int:
        if not 0 <= token < self.vocab_size:
            raise AssertionError(f"token {token}")
        return ((state ^ (token + 1)) * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & MASK

    def _logits(self, state: int, token: int) -> Logits:
        if token == self.poison:
            return np.full(self.vocab_size, np.nan, np.float32)
        draw = np.random.Generator(np.random.Philox(key=state))
        return (3 * draw.standard_normal(self.vocab_size)).astype(np.float32)
