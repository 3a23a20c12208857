"""The engine over a strict toy runner: batching, ends, limits, trouble."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from neuron_artifacts.errors import (
    ContextLengthError,
    EngineBusyError,
    EngineError,
    RequestError,
)
from neuron_artifacts.runtime.engine import Engine, EngineRequest, Step
from neuron_artifacts.runtime.outputs import SequenceDelta
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.runtime.gather import PATIENCE, Gathered
from tests.runtime.toy_runner import ToyRunner
from tests.runtime.toy_tokenizers import byte_level

TOKENIZER = Tokenizer(byte_level(), special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
VOCABULARY = TOKENIZER.vocab_size
EOS = TOKENIZER.eos_token_ids[0]

MakeEngine = Callable[..., Engine]


def toy_runner(**options: Any) -> ToyRunner:
    return ToyRunner(**{"vocab_size": VOCABULARY, **options})


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    engines: list[Engine] = []

    def make(runner: Any = None, *, start: bool = True, **options: Any) -> Engine:
        engines.append(Engine(runner or toy_runner(), TOKENIZER, **options))
        if start:
            engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Gate:
    """A callback that stops the engine at a delta until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, delta: SequenceDelta) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


def greedy(prompt: list[int], count: int) -> list[int]:
    """The toy model's greedy answer, without the engine."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(toy_runner().reference(tokens).argmax()))
    return tokens[len(prompt) :]


def test_gives_the_models_greedy_tokens(make_engine: MakeEngine) -> None:
    engine = make_engine()
    for length in (1, 3, 4, 5, 8, 9, 17, 32):
        prompt = [(7 * i + length) % VOCABULARY for i in range(length)]
        answer = Gathered(engine, prompt, max_tokens=20).wait()
        assert answer.tokens() == greedy(prompt, 20)
        assert answer.reason() == "length"
        shown = TOKENIZER.decode(prompt + answer.tokens())
        assert shown.endswith(answer.text())


def mixed_requests(count: int) -> list[dict[str, Any]]:
    """Requests that differ in everything that may matter, the same ones each time."""
    draw = random.Random(3)
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8, "n": 3},
        {"temperature": 1.3, "top_k": 9, "logprobs": 3}, {"repetition_penalty": 1.4, "logprobs": 0},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5, "n": 2},
        {"temperature": 1.0, "min_p": 0.1, "stop": ["e", "is"], "ignore_eos": False},
        {"min_tokens": 9, "max_tokens": 25, "stop": [" ", "a"], "include_stop_str_in_output": True},
        {"temperature": 2.0, "stop_token_ids": list(range(0, VOCABULARY, 9)), "max_tokens": None},
        {"logit_bias": {5: 4.0, 6: -9.0}, "skip_special_tokens": False},
    ]  # fmt: skip
    return [
        {
            "prompt": [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 32))],
            "seed": draw.randrange(99),
            "max_tokens": draw.randint(1, 30),
            **draw.choice(kinds),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("slots", [1, 4])
def test_64_requests_at_once_equal_one_at_a_time(make_engine: MakeEngine, slots: int) -> None:
    requests = mixed_requests(64)
    alone = make_engine(toy_runner(batch_size=3))
    expected = [Gathered(alone, **options).wait().outcome() for options in requests]

    runner = toy_runner(batch_size=slots)
    engine = make_engine(runner)
    answers: list[Gathered | None] = [None] * len(requests)

    def submit(part: int) -> None:
        for place in range(part, len(requests), 4):
            answers[place] = Gathered(engine, **requests[place])

    threads = [threading.Thread(target=submit, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer and answer.wait().outcome() for answer in answers] == expected
    assert engine.stats().running == engine.stats().waiting == 0
    widest = max(len(call[1]) for call in runner.calls if call[0] == "decode")  # type: ignore[arg-type]
    assert widest == slots


def test_a_long_prompt_lets_others_go_on(make_engine: MakeEngine) -> None:
    runner = toy_runner(buckets=(4,), batch_size=2)
    engine = make_engine(runner, start=False)
    first = Gathered(engine, [1, 2], max_tokens=30)
    second = Gathered(engine, list(range(32)), max_tokens=2)
    engine.start()
    first.wait()
    second.wait()
    chunks = [i for i, call in enumerate(runner.calls) if call[:2] == ("prefill", 1)]
    assert [runner.calls[i][2:] for i in chunks] == [(start, 4) for start in range(0, 32, 4)]
    for before, after in itertools.pairwise(chunks):
        assert ("decode", (0,)) in runner.calls[before:after]
    assert second.tokens() == greedy(list(range(32)), 2)


def test_first_come_first_served(make_engine: MakeEngine) -> None:
    runner = toy_runner(batch_size=1)
    engine = make_engine(runner, start=False)
    lengths = [3, 8, 1, 5, 2]
    answers = [Gathered(engine, [0] * length, max_tokens=2) for length in lengths]
    engine.start()
    for answer in answers:
        answer.wait()
    assert [call[3] for call in runner.calls if call[0] == "prefill"] == lengths


def test_more_sequences_than_slots(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(batch_size=2))
    answer = Gathered(engine, [5], n=7, seed=1, temperature=1.0, max_tokens=6).wait()
    alone = [
        Gathered(engine, [5], seed=1 + i, temperature=1.0, max_tokens=6).wait().tokens()
        for i in range(7)
    ]
    assert [answer.tokens(i) for i in range(7)] == alone
    assert len({tuple(tokens) for tokens in alone}) > 1


PROMPT = [11, 12, 13]
ANSWER = greedy(PROMPT, 24)


def spoken(count: int) -> str:
    shown: str = TOKENIZER.decode(PROMPT + ANSWER[:count])
    return shown.removeprefix(TOKENIZER.decode(PROMPT))


@pytest.mark.parametrize(
    ("options", "count", "reason", "stop"),
    [
        ({"max_tokens": 1}, 1, "length", None),
        ({"max_tokens": None}, 61, "length", None),
        ({"max_tokens": 61}, 61, "length", None),
        ({"stop_token_ids": [ANSWER[4]]}, ANSWER.index(ANSWER[4]) + 1, "stop", ANSWER[4]),
        ({"stop_token_ids": [ANSWER[1]], "min_tokens": 1}, 2, "stop", ANSWER[1]),
        ({"stop_token_ids": [VOCABULARY + 3, -1]}, 16, "length", None),
        ({"max_tokens": 1, "stop_token_ids": [ANSWER[0]]}, 1, "stop", ANSWER[0]),
        ({"stop": ["no such text"]}, 16, "length", None),
    ],
)
def test_ends(
    make_engine: MakeEngine, options: dict[str, Any], count: int, reason: str, stop: Any
) -> None:
    answer = Gathered(make_engine(), PROMPT, **{"max_tokens": 16, **options}).wait()
    assert len(answer.tokens()) == count
    assert answer.tokens()[:24] == ANSWER[:count]
    assert (answer.reason(), answer.deltas[0][-1].stop_reason) == (reason, stop)


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_over_token_borders(make_engine: MakeEngine, include: bool) -> None:
    whole = spoken(20)
    stop = whole[7:11]
    start = whole.index(stop)
    answer = Gathered(
        make_engine(), PROMPT, max_tokens=24, stop=[stop], include_stop_str_in_output=include
    ).wait()
    assert answer.text() == whole[: start + 4 if include else start]
    assert (answer.reason(), answer.deltas[0][-1].stop_reason) == ("stop", stop)
    assert answer.tokens() == ANSWER[: len(answer.tokens())]
    assert len(answer.tokens()) < 24


@pytest.mark.parametrize(
    ("options", "count", "reason"),
    [
        ({"ignore_eos": False}, 1, "stop"),
        ({"ignore_eos": True}, 5, "length"),
        ({"ignore_eos": False, "min_tokens": 3}, 4, "stop"),
        ({"ignore_eos": True, "min_tokens": 3}, 5, "length"),
    ],
)
def test_the_end_of_text(
    make_engine: MakeEngine, options: dict[str, Any], count: int, reason: str
) -> None:
    answer = Gathered(make_engine(), PROMPT, max_tokens=5, logit_bias={EOS: 1e3}, **options).wait()
    assert (len(answer.tokens()), answer.reason()) == (count, reason)
    assert answer.deltas[0][-1].stop_reason is None
    if reason == "stop":
        assert answer.tokens()[-1] == EOS
        assert EOS not in answer.tokens()[:-1]
    assert "</s>" not in answer.text()


@pytest.mark.parametrize("include", [False, True])
def test_the_text_of_a_stop_token(make_engine: MakeEngine, include: bool) -> None:
    stop = ANSWER[3]
    count = ANSWER.index(stop)
    answer = Gathered(
        make_engine(), PROMPT, stop_token_ids=[stop], include_stop_str_in_output=include
    ).wait()
    assert answer.text() == spoken(count + include)
    assert answer.tokens() == ANSWER[: count + 1]


def test_stop_strings_wait_for_min_tokens(make_engine: MakeEngine) -> None:
    engine = make_engine()
    letter = next(letter for letter in spoken(6) if letter.isascii())
    assert len(Gathered(engine, PROMPT, stop=[letter]).wait().tokens()) < 8
    late = Gathered(engine, PROMPT, stop=[letter], min_tokens=8, max_tokens=9).wait()
    assert len(late.tokens()) >= 8
    assert letter in late.text()


def test_logprobs_come_with_each_token(make_engine: MakeEngine) -> None:
    answer = Gathered(
        make_engine(), PROMPT, max_tokens=4, logprobs=2, repetition_penalty=1.5
    ).wait()
    for place, delta in enumerate(answer.deltas[0]):
        (entry,) = delta.logprobs or []
        (token,) = delta.token_ids
        logits = toy_runner().reference(PROMPT + answer.tokens()[:place]).astype(np.float64)
        exact = logits - np.log(np.exp(logits).sum())
        best = [int(i) for i in np.argsort(-exact)[:2]]
        assert list(entry) == [token, *(i for i in best if i != token)]
        for each, logprob in entry.items():
            assert logprob.logprob == pytest.approx(exact[each], abs=1e-4)
            assert logprob.rank == 1 + int((exact > exact[each]).sum())
            assert logprob.decoded_token == TOKENIZER.decode([each], skip_special_tokens=False)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "named"),
    [
        ([], {}, RequestError, "empty"),
        ([1, VOCABULARY], {}, RequestError, f"token id {VOCABULARY}"),
        ([-1], {}, RequestError, "token id -1"),
        ([1], {"logit_bias": {VOCABULARY: 1.0}}, RequestError, "logit_bias"),
        ([1] * 33, {}, ContextLengthError, "32 tokens, but the prompt has 33"),
        ([1] * 65, {}, ContextLengthError, "32 tokens, but the prompt has 65"),
        ([1] * 10, {"max_tokens": 55}, ContextLengthError, "64 tokens, but 10 .* 55 .* 65"),
        ([1] * 10, {"max_tokens": None, "min_tokens": 55}, ContextLengthError, "65"),
    ],
)
def test_refuses_before_queueing(
    make_engine: MakeEngine, prompt: list[int], options: Any, error: type[Exception], named: str
) -> None:
    engine = make_engine(start=False)
    with pytest.raises(error, match=named):
        Gathered(engine, prompt, **options)
    assert engine.stats().waiting == 0


def test_a_prompt_may_fill_the_context_but_for_one(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(max_context_length=64))
    assert len(Gathered(engine, [1] * 63, max_tokens=None).wait().tokens()) == 1
    with pytest.raises(ContextLengthError):
        Gathered(engine, [1] * 64, max_tokens=None)


def test_a_full_queue_is_busy(make_engine: MakeEngine) -> None:
    engine = make_engine(start=False, max_waiting=3)
    Gathered(engine, [1], n=5)
    with pytest.raises(EngineBusyError) as caught:
        Gathered(engine, [1])
    assert not caught.value.draining
    assert engine.stats().waiting == 5


def test_a_request_id_is_used_once_at_a_time(make_engine: MakeEngine) -> None:
    engine = make_engine(start=False)
    request = EngineRequest("same", [1], SamplingParams(max_tokens=1))
    engine.submit(request, lambda delta: None)
    with pytest.raises(RequestError, match="same"):
        engine.submit(request, lambda delta: None)


def test_aborting(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(batch_size=1))
    gate = Gate()
    running = Gathered(engine, [1], meanwhile=gate, max_tokens=30)
    waiting = Gathered(engine, [2], n=2)
    assert gate.reached.wait(PATIENCE)
    for request_id in (waiting.id, running.id, running.id, "unknown"):
        engine.abort(request_id)
    gate.opened.set()
    assert [running.wait().reason(), *(waiting.wait().reason(i) for i in (0, 1))] == ["abort"] * 3
    assert running.tokens() == greedy([1], len(running.tokens()))
    assert waiting.tokens() == []
    assert Gathered(engine, [3], max_tokens=2).wait().tokens() == greedy([3], 2)
    engine.abort(running.id)


def abort_after(engine: Engine, count: int) -> Callable[[SequenceDelta], None]:
    """A callback that aborts its request at the ``count``-th delta."""
    left = itertools.count(count, -1)

    def abort(delta: SequenceDelta) -> None:
        if next(left) <= 0:
            engine.abort(delta.request_id)

    return abort


def test_aborts_at_random_moments_give_back_every_slot(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(batch_size=3))
    draw = random.Random(5)
    for options in mixed_requests(120):
        answer = Gathered(engine, meanwhile=abort_after(engine, draw.randrange(12)), **options)
        if draw.random() < 0.3:
            engine.abort(answer.id)
    assert engine.drain(PATIENCE)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_cache_usage) == (0, 0, 0)
    assert sorted(engine._scheduler._free) == [0, 1, 2]


def test_a_callback_may_abort_and_submit(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(batch_size=1))
    later: list[Gathered] = []

    def replace(delta: SequenceDelta) -> None:
        if not later:
            engine.abort(delta.request_id)
            later.append(Gathered(engine, [9], max_tokens=3))

    assert Gathered(engine, [1], meanwhile=replace).wait().reason() == "abort"
    assert later[0].wait().tokens() == greedy([9], 3)


@pytest.mark.parametrize("n", [1, 3])
def test_a_raising_callback_ends_only_its_request(make_engine: MakeEngine, n: int) -> None:
    engine = make_engine(toy_runner(batch_size=2))

    def raise_(delta: SequenceDelta) -> None:
        raise ValueError("client trouble")

    raising = Gathered(engine, [1], meanwhile=raise_, n=n)
    assert Gathered(engine, [2], max_tokens=9).wait().tokens() == greedy([2], 9)
    assert engine.drain(PATIENCE)
    assert engine.failed is None
    assert sum(map(len, raising.deltas)) == 1
    assert sorted(engine._scheduler._free) == [0, 1]


def test_useless_logits_end_only_their_request(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(poison=50), start=False)
    sick = Gathered(engine, [1, 50], n=2)
    later = Gathered(engine, [1], logit_bias={50: 1e3}, n=2)
    well = Gathered(engine, [2], max_tokens=9, logit_bias={50: -1e3})
    engine.start()
    assert [sick.wait().reason(i) for i in (0, 1)] == ["abort", "abort"]
    assert all(isinstance(deltas[-1].error, EngineError) for deltas in sick.deltas)
    assert [len(later.wait().tokens(i)) for i in (0, 1)] in ([1, 1], [1, 0])
    assert isinstance(later.deltas[0][-1].error, EngineError)
    assert (well.wait().reason(), len(well.tokens())) == ("length", 9)
    assert engine.failed is None


class BreakingRunner(ToyRunner):
    """Breaks after ``last`` calls."""

    last = 6

    def _enter(self, *call: object) -> None:
        super()._enter(*call)
        if len(self.calls) > self.last:
            raise RuntimeError("device lost")


def test_a_broken_runner_ends_everything(make_engine: MakeEngine) -> None:
    engine = make_engine(BreakingRunner(vocab_size=VOCABULARY, batch_size=1), start=False)
    answers = [Gathered(engine, [i], max_tokens=30, n=2) for i in range(3)]
    engine.start()
    for answer in answers:
        answer.wait()
        for index in range(2):
            error = answer.deltas[index][-1].error
            assert isinstance(error, EngineError)
            assert "device lost" in error.message
            assert answer.reason(index) == "abort"
    assert isinstance(engine.failed, RuntimeError)
    with pytest.raises(EngineError, match="device lost"):
        Gathered(engine, [1])
    assert not engine.drain(None)
    assert engine.stats().running == 0


def test_draining_finishes_what_was_accepted(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(batch_size=2))
    answers = [Gathered(engine, [i], max_tokens=12) for i in range(6)]
    assert engine.drain(PATIENCE)
    assert [answer.reason() for answer in answers] == ["length"] * 6
    with pytest.raises(EngineBusyError) as caught:
        Gathered(engine, [1])
    assert caught.value.draining
    assert engine.draining
    assert engine.drain(0)


def test_draining_waits_for_the_last_callback(make_engine: MakeEngine) -> None:
    engine = make_engine()
    seen: list[str | None] = []

    def tell_late(delta: SequenceDelta) -> None:
        time.sleep(0.02)
        seen.append(delta.finish_reason)

    Gathered(engine, [1], max_tokens=2, meanwhile=tell_late)
    assert engine.drain(PATIENCE)
    assert seen == [None, "length"]


def test_draining_ends_what_takes_too_long(make_engine: MakeEngine) -> None:
    engine = make_engine(toy_runner(batch_size=1))
    gate = Gate()
    first, second = Gathered(engine, [1], meanwhile=gate), Gathered(engine, [2])
    assert gate.reached.wait(PATIENCE)
    outcome: list[bool] = []
    drainer = threading.Thread(target=lambda: outcome.append(engine.drain(0.01)))
    drainer.start()
    while not engine._aborted:  # until the drain has run out of patience
        time.sleep(0.001)
    gate.opened.set()
    drainer.join(PATIENCE)
    assert outcome == [False]
    assert [first.wait().reason(), second.wait().reason()] == ["abort", "abort"]


def test_closing(make_engine: MakeEngine) -> None:
    runner = toy_runner()
    engine = make_engine(runner)
    gate = Gate()
    answer = Gathered(engine, [1], meanwhile=gate)
    assert gate.reached.wait(PATIENCE)
    closer = threading.Thread(target=engine.close)
    closer.start()
    gate.opened.set()
    closer.join(PATIENCE)
    assert answer.wait().reason() in ("abort", "length")
    engine.close()
    assert not runner.closed
    with pytest.raises(EngineBusyError):
        Gathered(engine, [1])
    make_engine(start=False).close()


def test_times_stats_and_steps(make_engine: MakeEngine) -> None:
    steps: list[Step] = []
    runner = toy_runner(batch_size=2, buckets=(4,))
    engine = make_engine(runner, start=False, on_step=steps.append)
    gate = Gate()
    answer = Gathered(engine, list(range(10)), max_tokens=5, meanwhile=gate)
    engine.start()
    assert gate.reached.wait(PATIENCE)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.preemptions) == (1, 0, 0)
    assert stats.kv_cache_usage == 10 / (2 * 64)
    gate.opened.set()
    answer.wait()
    assert engine.drain(PATIENCE)
    engine.close()
    times = answer.request.times
    assert times.scheduled is not None
    assert times.first_token is not None
    assert times.last_token is not None
    assert times.arrived <= times.scheduled <= times.first_token < times.last_token
    assert steps == [Step(4, 0), Step(4, 0), Step(2, 1), *[Step(0, 1)] * 4]
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens) == (10, 5)


def test_a_raising_observer_is_survived(make_engine: MakeEngine) -> None:
    def raise_(step: Step) -> None:
        raise ValueError("metrics trouble")

    engine = make_engine(on_step=raise_)
    assert len(Gathered(engine, [1], max_tokens=3).wait().tokens()) == 3
    assert engine.failed is None


def test_a_slow_client_gets_everything(make_engine: MakeEngine) -> None:
    engine = make_engine()

    def pause(delta: SequenceDelta) -> None:
        time.sleep(0.002)

    slow = Gathered(engine, [1], max_tokens=20, meanwhile=pause)
    fast = Gathered(engine, [2], max_tokens=20)
    assert [slow.wait().tokens(), fast.wait().tokens()] == [greedy([1], 20), greedy([2], 20)]
