"""Continuous batching: one thread that drives a runner for many requests at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from neuron_artifacts.backends.runner import Runner, SamplesOnDevice
from neuron_artifacts.errors import (
    EngineBusyError,
    EngineError,
    NeuronArtifactsError,
    RequestError,
)
from neuron_artifacts.runtime.outputs import SequenceDelta
from neuron_artifacts.runtime.sampling import Floats
from neuron_artifacts.runtime.scheduler import Chunk, Scheduler
from neuron_artifacts.runtime.sequence import EngineRequest, Limits, OnDelta, Sequence
from neuron_artifacts.runtime.tokenizer import Tokenizer

__all__ = ["Engine", "EngineRequest", "EngineStats", "OnDelta", "Step"]

log = logging.getLogger(__name__)
_Told = TypeVar("_Told")


@dataclass(frozen=True)
class EngineStats:
    """The engine at one moment. ``running`` and ``waiting`` count sequences.

    ``kv_cache_usage`` is the share of all slots' positions that hold a running sequence's keys
    and values, 0 to 1.
    """

    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens: int
    generation_tokens: int
    preemptions: int = 0


@dataclass(frozen=True)
class Step:
    """What one step ran: prompt tokens and generated tokens."""

    prompt_tokens: int
    generation_tokens: int


class Engine:
    """Runs requests over the runner's slots; the only user of the runner once started.

    Parameters
    ----------
    max_waiting:
        How many sequences may wait for a slot; beyond, requests are refused as busy. A request
        is always taken while nobody waits.
    on_step:
        Called on the engine's thread after each step, for metrics.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        *,
        max_waiting: int = 1024,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self._runner, self._tokenizer = runner, tokenizer
        self._max_waiting, self._on_step = max_waiting, on_step
        # The last token of a sequence is never fed back, so the decode graphs bound positions.
        self._limits = Limits(
            seq_len=min(runner.seq_len, max(runner.token_generation_buckets)),
            max_context_length=runner.max_context_length,
            vocab_size=runner.vocab_size,
            samples_on_device=isinstance(runner, SamplesOnDevice),
        )
        self._scheduler = Scheduler(runner.batch_size, max(runner.context_encoding_buckets))
        self._changed = threading.Condition()
        self._ids: dict[str, int] = {}
        self._aborted: set[str] = set()
        self._draining = self._closing = False
        self._prompt_tokens = self._generation_tokens = 0
        self._thread: threading.Thread | None = None
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Start the engine's thread; requests submitted before wait for it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def check(self, request: EngineRequest) -> None:
        """Raise what :meth:`submit` would raise about the request itself."""
        self._limits.check(request)

    def submit(self, request: EngineRequest, on_delta: OnDelta) -> None:
        """Queue a request; ``on_delta`` is called on the engine's thread for each new token.

        Thread-safe. A callback should hand over and return; one that raises ends its request.

        Raises
        ------
        RequestError, ContextLengthError
            The request cannot be honoured.
        EngineBusyError
            The queue is full, or the engine is draining.
        EngineError
            The engine has failed.
        """
        self.check(request)
        sequences = [
            Sequence(request, index, on_delta, self._tokenizer, self._limits)
            for index in range(request.params.n)
        ]
        with self._changed:
            self._check_open(len(sequences))
            if request.request_id in self._ids:
                raise RequestError(f"request id {request.request_id!r} is in use")
            self._ids[request.request_id] = len(sequences)
            for sequence in sequences:
                self._scheduler.add(sequence)
            self._changed.notify_all()

    def abort(self, request_id: str) -> None:
        """End a request at the next step; its last deltas have ``finish_reason`` "abort".

        Thread-safe; does nothing for a request that is finished or unknown.
        """
        with self._changed:
            if request_id in self._ids:
                self._aborted.add(request_id)
                self._changed.notify_all()

    def drain(self, timeout: float | None) -> bool:
        """Refuse new requests and finish the accepted ones, for ``timeout`` seconds at most.

        What is left then is aborted. Returns whether everything accepted was finished.
        """
        with self._changed:
            self._draining = True
            finished = self._changed.wait_for(self._is_idle, timeout)
            if not finished:
                self._aborted.update(self._ids)
                self._changed.notify_all()
                if self._thread is not None:
                    self._changed.wait_for(self._is_idle)
            return finished and self.failed is None

    def close(self) -> None:
        """Abort everything and end the thread. The runner stays open: it is the caller's."""
        with self._changed:
            self._draining = self._closing = True
            self._aborted.update(self._ids)
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def stats(self) -> EngineStats:
        with self._changed:
            capacity = self._runner.batch_size * self._runner.seq_len
            return EngineStats(
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                kv_cache_usage=self._scheduler.used_positions / capacity,
                prompt_tokens=self._prompt_tokens,
                generation_tokens=self._generation_tokens,
            )

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the engine is stopping."""
        return self._draining

    def _check_open(self, count: int) -> None:
        if self.failed is not None:
            raise EngineError(f"the engine has failed: {self.failed}") from self.failed
        if self._draining:
            raise EngineBusyError("the engine is shutting down", draining=True)
        waiting = self._scheduler.waiting
        if waiting and waiting + count > self._max_waiting:
            raise EngineBusyError(f"{waiting} sequences are waiting already", draining=False)

    def _is_idle(self) -> bool:
        return not self._ids or self.failed is not None

    def _run(self) -> None:
        try:
            while self._prepare():
                self._step()
        except BaseException as error:  # noqa: BLE001 - recorded, and reported by submit
            self._fail(error)

    def _prepare(self) -> bool:
        """Sleep until there is work, then admit; ``False`` once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._ids or self._closing)
            doomed = [s for s in self._scheduler if s.request.request_id in self._aborted]
        self._give_up(doomed)
        with self._changed:
            now = time.monotonic()
            for sequence in self._scheduler.admit():
                times = sequence.request.times
                times.scheduled = times.scheduled or now
            return bool(self._ids) or not self._closing

    def _step(self) -> None:
        plan = self._scheduler.plan()
        prompt_tokens = 0
        generated = self._decode(plan.decode) if plan.decode else 0
        if plan.chunk and not plan.chunk.sequence.finished:
            prompt_tokens = len(plan.chunk.tokens)
            generated += self._prefill(plan.chunk)
        with self._changed:
            self._prompt_tokens += prompt_tokens
            self._generation_tokens += generated
        if self._on_step and (prompt_tokens or generated):
            _survives(self._on_step, Step(prompt_tokens, generated))

    def _decode(self, sequences: tuple[Sequence, ...]) -> int:
        logits = self._runner.decode(
            [s.held_slot for s in sequences],
            [s.last_token for s in sequences],
            [s.position for s in sequences],
        )
        for sequence in sequences:
            sequence.position += 1
        return sum(self._accept(s, row) for s, row in zip(sequences, logits, strict=True))

    def _prefill(self, chunk: Chunk) -> int:
        sequence = chunk.sequence
        if chunk.start == 0 and isinstance(self._runner, SamplesOnDevice):
            params = sequence.request.params
            self._runner.set_sampling(
                sequence.held_slot, temperature=params.temperature, top_k=params.top_k,
                top_p=params.top_p,
            )  # fmt: skip
        logits = self._runner.prefill(sequence.held_slot, chunk.tokens, chunk.start)
        sequence.position += len(chunk.tokens)
        return 0 if sequence.in_prompt else self._accept(sequence, logits)

    def _accept(self, sequence: Sequence, logits: Floats) -> int:
        """Take one token for a sequence; trouble ends its request and no other."""
        if sequence.finished:  # its request was given up earlier in this step
            return 0
        times = sequence.request.times
        try:
            delta = sequence.accept(logits)
        except Exception as error:  # noqa: BLE001 - one request's trouble only
            _report(f"request {sequence.request.request_id} failed", error)
            self._give_up(self._siblings(sequence), _as_ours(error))
            return 0
        times.last_token = time.monotonic()
        times.first_token = times.first_token or times.last_token
        if delta.finish_reason is None:
            survived = _survives(sequence.on_delta, delta)
        else:
            survived = self._end(sequence, delta)
        if not survived:
            self._give_up(self._siblings(sequence), tell=False)
        return 1

    def _siblings(self, sequence: Sequence) -> list[Sequence]:
        """The unfinished sequences of the same request."""
        with self._changed:
            return [s for s in self._scheduler if s.request is sequence.request]

    def _give_up(
        self,
        sequences: Iterable[Sequence],
        error: NeuronArtifactsError | None = None,
        *,
        tell: bool = True,
    ) -> None:
        for sequence in sequences:
            self._end(sequence, sequence.give_up(error), tell=tell)

    def _end(self, sequence: Sequence, last: SequenceDelta, *, tell: bool = True) -> bool:
        """Free the slot, tell the client, and only then count the sequence as done."""
        with self._changed:
            self._scheduler.release(sequence)
        survived = not tell or _survives(sequence.on_delta, last)
        request_id = sequence.request.request_id
        with self._changed:
            self._ids[request_id] -= 1
            if not self._ids[request_id]:
                del self._ids[request_id]
                self._aborted.discard(request_id)
                self._changed.notify_all()
        return survived

    def _fail(self, error: BaseException) -> None:
        """Record why the thread ends, and end every request with it."""
        _report("the engine failed", error)
        with self._changed:
            self.failed = error
            left = list(self._scheduler)
        self._give_up(left, _as_ours(error))
        with self._changed:
            self._changed.notify_all()


def _survives(callback: Callable[[_Told], None], argument: _Told) -> bool:
    """Call somebody else's code; whether it returned."""
    try:
        callback(argument)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the engine's
        _report("a callback of the engine raised", error)
        return False
    return True


def _report(what: str, error: BaseException) -> None:
    """One line for the log; the traceback is there for who asks for details."""
    log.error("%s: %s: %s", what, type(error).__name__, error)
    log.debug("%s", what, exc_info=error)


def _as_ours(error: BaseException) -> NeuronArtifactsError:
    if isinstance(error, NeuronArtifactsError):
        return error
    return EngineError(f"generation failed: {type(error).__name__}: {error}")
