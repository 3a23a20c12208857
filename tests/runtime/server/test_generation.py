"""The mailbox between the engine's thread and the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from neuron_artifacts.runtime.outputs import Logprob, SequenceDelta
from neuron_artifacts.runtime.server.errors import ClientGoneError, unavailable
from neuron_artifacts.runtime.server.generation import Mailbox, Piece, join_deltas, merge


def piece(index: int, token: int, *, reason: str | None = None, text: str = "") -> Piece:
    delta = SequenceDelta("r", index, [token], text or f"<{token}>", finish_reason=reason)  # type: ignore[arg-type]
    return Piece(index, delta)


def test_pieces_of_one_choice_are_merged_in_order() -> None:
    merged = merge([piece(1, 10), piece(0, 20), piece(1, 11), piece(0, 21, reason="stop")])
    assert [(p.index, p.delta.token_ids, p.delta.text) for p in merged] == [
        (1, [10, 11], "<10><11>"),
        (0, [20, 21], "<20><21>"),
    ]
    assert [p.delta.finish_reason for p in merged] == [None, "stop"]


def test_logprobs_stay_beside_their_tokens() -> None:
    def delta(token: int) -> SequenceDelta:
        return SequenceDelta("r", 0, [token], "", logprobs=[{token: Logprob(-1.0, 1, "x")}])

    joined = join_deltas([delta(1), delta(2)])
    assert joined.logprobs is not None
    assert [list(position) for position in joined.logprobs] == [[1], [2]]
    assert joined.token_ids == [1, 2]
    assert join_deltas([piece(0, 1).delta, piece(0, 2).delta]).logprobs is None


def test_what_came_before_an_abort_is_not_lost_with_it() -> None:
    abort = Piece(0, SequenceDelta("r", 0, [], "", finish_reason="abort"))
    merged = merge([piece(0, 1), piece(1, 2), piece(0, 3), abort, piece(1, 4)])
    assert [p.delta.token_ids for p in merged] == [[1, 3], [2, 4], []]
    assert merged[-1] is abort


def test_a_reader_gets_everything_in_order_whatever_its_pace() -> None:
    count = 5000

    async def run() -> list[int]:
        mailbox = Mailbox()

        def write() -> None:
            for token in range(count):
                mailbox.put(piece(0, token))

        thread = threading.Thread(target=write)
        thread.start()
        tokens: list[int] = []
        while len(tokens) < count:
            tokens += [p.delta.token_ids[0] for p in await mailbox.take()]
            if len(tokens) % 7 == 0:
                await asyncio.sleep(0.001)
        thread.join()
        return tokens

    assert asyncio.run(run()) == list(range(count))


def test_the_first_failure_counts_and_stays() -> None:
    async def run() -> None:
        mailbox = Mailbox()
        mailbox.put(piece(0, 1))
        mailbox.fail(ClientGoneError())
        mailbox.fail(unavailable("later"))
        for _ in range(2):
            with pytest.raises(ClientGoneError):
                await mailbox.take()

    asyncio.run(run())


def test_a_loop_that_is_gone_does_not_trouble_the_engine() -> None:
    async def make() -> Mailbox:
        return Mailbox()

    mailbox = asyncio.run(make())
    mailbox.put(piece(0, 1))
    mailbox.put(piece(0, 2))
