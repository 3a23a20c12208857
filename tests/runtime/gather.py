"""A request's callback that keeps everything and lets a test wait for the end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from neuron_artifacts.runtime.engine import Engine, EngineRequest
from neuron_artifacts.runtime.outputs import SequenceDelta
from neuron_artifacts.runtime.params import SamplingParams

PATIENCE = 60
_numbers = itertools.count()


class Gathered:
    """All deltas of one request; ``meanwhile`` is called with each before it is kept."""

    def __init__(
        self, engine: Engine, prompt: Sequence[int], *,
        meanwhile: Callable[[SequenceDelta], None] = lambda delta: None, **options: Any,
    ) -> None:  # fmt: skip
        self.params = SamplingParams(**{"temperature": 0, "ignore_eos": True, **options})
        self.request = EngineRequest(f"r{next(_numbers)}", list(prompt), self.params)
        self.deltas: list[list[SequenceDelta]] = [[] for _ in range(self.params.n)]
        self._meanwhile = meanwhile
        self._ended = threading.Event()
        engine.submit(self.request, self._take)

    @property
    def id(self) -> str:
        return self.request.request_id

    def wait(self) -> Gathered:
        assert self._ended.wait(PATIENCE), f"{self.id} did not end"
        return self

    def tokens(self, index: int = 0) -> list[int]:
        return [token for delta in self.deltas[index] for token in delta.token_ids]

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas[index])

    def reason(self, index: int = 0) -> str | None:
        return self.deltas[index][-1].finish_reason

    def outcome(self) -> list[Any]:
        """Everything a client sees of the request, for comparing two runs."""
        return [
            (self.tokens(i), self.text(i), self.reason(i), deltas[-1].stop_reason,
             [delta.logprobs for delta in deltas])
            for i, deltas in enumerate(self.deltas)
        ]  # fmt: skip

    def _take(self, delta: SequenceDelta) -> None:
        assert delta.request_id == self.id
        mine = self.deltas[delta.index]
        assert not mine or mine[-1].finish_reason is None, "a delta after the last"
        mine.append(delta)
        if all(each and each[-1].finish_reason for each in self.deltas):
            self._ended.set()
        self._meanwhile(delta)
