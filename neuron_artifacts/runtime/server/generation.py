"""The bridge between the engine's thread and the event loop.

The engine calls back on its own thread and must never wait for a client. Each HTTP request has a
mailbox: the engine drops pieces in and rings once; the loop takes all there is at its own pace.
A client that reads slowly thus finds fewer, larger pieces, and what waits for it is bounded by
the answer it asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.types import Receive

from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.runtime.engine import EngineRequest
from neuron_artifacts.runtime.outputs import RequestTimes, SequenceDelta
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.server.errors import ApiError, ClientGoneError, unavailable
from neuron_artifacts.runtime.server.prompts import EncodedPrompt
from neuron_artifacts.runtime.server.state import ServerState

Failure = NeuronArtifactsError | ApiError | ClientGoneError


@dataclass(frozen=True)
class Piece:
    """What was added to choice ``index`` (``prompt * n + sequence``) of an HTTP request."""

    index: int
    delta: SequenceDelta


class Mailbox:
    """Pieces on their way from the engine's thread to one reader on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._rung = asyncio.Event()
        self._failure: Failure | None = None

    def put(self, piece: Piece) -> None:
        """Called by the engine's thread; never blocks."""
        with self._lock:
            self._pieces.append(piece)
            first = len(self._pieces) == 1
        if first:
            # The loop may be gone when the server stops while the engine still works.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._rung.set)

    def fail(self, failure: Failure) -> None:
        """Make the reader raise, now; called on the loop. The first failure counts."""
        self._failure = self._failure or failure
        self._rung.set()

    async def take(self) -> list[Piece]:
        """Wait until something is there, and take all of it."""
        await self._rung.wait()
        self._rung.clear()
        if self._failure is not None:
            self._rung.set()
            raise self._failure
        with self._lock:
            pieces, self._pieces = self._pieces, []
        return pieces


class Generation:
    """All sequences of one HTTP request, from :meth:`start` to the last piece.

    Whoever starts one closes it: that frees every slot it still holds. ``arrived`` is when the
    HTTP request came, by ``time.monotonic()``: latencies count from there.
    """

    def __init__(
        self,
        state: ServerState,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        *,
        arrived: float,
    ) -> None:
        self._state = state
        self._prompts = prompts
        self._params = params
        self._arrived = arrived
        self._mailbox = Mailbox()
        self._open: set[str] = set()
        self._unfinished = len(prompts) * params.n

    def check(self) -> list[EngineRequest]:
        """What :meth:`start` would submit, checked by the engine."""
        # Not the client's id: it may send the same one twice at a time.
        requests = [
            EngineRequest(
                uuid.uuid4().hex, prompt.token_ids, self._params, RequestTimes(self._arrived)
            )
            for prompt in self._prompts
        ]
        for request in requests:
            self._state.engine.check(request)
        return requests

    def start(self) -> None:
        """Hand everything to the engine, or nothing.

        Raises
        ------
        RequestError
            What the engine has against one of the prompts or the parameters.
        EngineBusyError
            The queue is full or the engine is stopping.
        """
        requests = self.check()
        self._state.readiness.generations.add(self)
        try:
            for position, request in enumerate(requests):
                self._submit(request, position * self._params.n)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Abort what still runs; harmless when all has ended."""
        self._state.readiness.generations.discard(self)
        while self._open:
            self._state.engine.abort(self._open.pop())

    def fail(self, failure: Failure) -> None:
        """End the generation early: slots are freed now, the reader raises ``failure``."""
        self._mailbox.fail(failure)
        self.close()

    async def collect(self, receive: Receive) -> list[SequenceDelta]:
        """Wait for the end, or for the client to leave; each choice as one delta, in order."""
        collected: list[list[SequenceDelta]] = [[] for _ in range(self._unfinished)]
        watcher = asyncio.create_task(self.watch(receive))
        try:
            async for piece in self.pieces():
                collected[piece.index].append(piece.delta)
        finally:
            watcher.cancel()
            self.close()
        return [join_deltas(deltas) for deltas in collected]

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces as they come, those of one choice that came together merged into one."""
        while self._unfinished:
            for piece in merge(await self._mailbox.take()):
                self._account(piece.delta)
                yield piece

    async def watch(self, receive: Receive) -> None:
        """Wait for the client to leave, then end the generation."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.fail(ClientGoneError())

    def _submit(self, request: EngineRequest, first_index: int) -> None:
        meter = self._state.metrics.follow(request)

        def on_delta(delta: SequenceDelta) -> None:
            meter.record(delta)
            self._mailbox.put(Piece(first_index + delta.index, delta))

        self._state.engine.submit(request, on_delta)
        self._open.add(request.request_id)

    def _account(self, delta: SequenceDelta) -> None:
        if delta.error is not None:
            raise delta.error
        if delta.finish_reason is None:
            return
        if delta.finish_reason == "abort":
            raise unavailable("the request was ended before its answer was complete")
        self._unfinished -= 1


def merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Put together the pieces of each choice, in the order in which the choices appear.

    Aborts stay apart, at the end: what was generated before them is still delivered.
    """
    by_index: dict[int, list[SequenceDelta]] = {}
    aborts = []
    for piece in pieces:
        if piece.delta.finish_reason == "abort":
            aborts.append(piece)
        else:
            by_index.setdefault(piece.index, []).append(piece.delta)
    return [*(Piece(index, join_deltas(deltas)) for index, deltas in by_index.items()), *aborts]


def join_deltas(deltas: Sequence[SequenceDelta]) -> SequenceDelta:
    """Successive deltas of one sequence as one."""
    if len(deltas) == 1:
        return deltas[0]
    first, last = deltas[0], deltas[-1]
    logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
    return SequenceDelta(
        request_id=first.request_id,
        index=first.index,
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        text="".join(delta.text for delta in deltas),
        logprobs=None if first.logprobs is None else logprobs,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
    )
