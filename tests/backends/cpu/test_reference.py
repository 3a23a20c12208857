"""The cpu backend against the committed answers of transformers; needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from neuron_artifacts.backends.cpu.targets import TARGET_NAMES, missing_features, resolve_target
from neuron_artifacts.backends.runner import Logits, Runner
from tests.backends.cpu.compiled import Shape, Workshop
from tests.reference.golden import Answer, Golden, golden_names, read_golden

FLOAT32_TOLERANCE = 5e-4
"""Absolute, on logits that spread by 4: rounding errors of float32 in another order of summation.
The least margin of a golden is eight times that, so they never decide which token is best."""

BFLOAT16_RMS = 1.0
BFLOAT16_LARGEST = 2.0
"""How far our bfloat16 logits may be from the float32 ones of transformers, in units of how far its
own bfloat16 logits are on the same tokens: on average no farther, and for the worst of a few
thousand, where luck decides, twice as far. The unit is measured for every golden, so it
follows the depth and the width of the model."""

EXACT = Shape()
SHARED = Shape(threads=3)
COARSE = Shape(compute="bfloat16", context=(64,), token=(128,), batch_size=2)

OTHER_TARGETS = [
    name
    for name in TARGET_NAMES
    if name != resolve_target("native").name and not missing_features(resolve_target(name))
]
SOME_OF_EACH_FAMILY = (
    "llama-mqa-biases-sharded",
    "mistral-window-shortest-tied",
    "qwen2-yarn-sharded",
    "qwen3-tied",
)


@pytest.fixture(scope="module", params=golden_names())
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


@pytest.fixture
def runner(golden: Golden, workshop: Workshop) -> Iterator[Runner]:
    with workshop.open(golden.model, EXACT) as runner:
        yield runner


def feed(runner: Runner, slot: int, tokens: Sequence[int], chunks: Sequence[int] = ()) -> Logits:
    """Prefill in ``chunks``, whose last length repeats; logits of every token."""
    lengths = list(chunks) or [runner.context_encoding_buckets[-1]]
    parts, start = [], 0
    while start < len(tokens):
        length = lengths.pop(0) if len(lengths) > 1 else lengths[0]
        parts.append(runner.prefill(slot, tokens[start : start + length], start, all_logits=True))
        start += length
    return np.concatenate(parts)


def continue_greedily(runner: Runner, slot: int, prompt: Sequence[int], count: int) -> list[int]:
    tokens = [int(feed(runner, slot, prompt)[-1].argmax())]
    for position in range(len(prompt), len(prompt) + count - 1):
        tokens.append(int(runner.decode([slot], tokens[-1:], [position])[0].argmax()))
    return tokens


def test_greedy_tokens_are_those_of_transformers(golden: Golden, runner: Runner) -> None:
    for slot, answer in enumerate(golden.answers):
        tokens = continue_greedily(runner, slot, answer.prompt, len(answer.continuation))
        assert tokens == list(answer.continuation), f"after a prompt of {len(answer.prompt)}"


def test_every_token_may_be_decoded(golden: Golden, runner: Runner) -> None:
    """Without prefill: all slots from position 0, each at its own length."""
    slots = range(len(golden.answers))
    for position in range(len(golden.answers[-1].tokens)):
        live = [s for s in slots if position < len(golden.answers[s].tokens)]
        tokens = [golden.answers[s].tokens[position] for s in live]
        rows = runner.decode(live, tokens, [position] * len(live))
        for slot, row in zip(live, rows, strict=True):
            expect_logits(golden.answers[slot], position, row)


@pytest.mark.parametrize(
    "chunks", [(64,), (16,), (1,), (37, 53, 9), (5, 64, 1, 17)], ids=lambda c: "-".join(map(str, c))
)
def test_chunks_of_a_prompt_do_not_matter(
    golden: Golden, runner: Runner, chunks: tuple[int, ...]
) -> None:
    for answer in golden.answers:
        logits = feed(runner, 1, answer.tokens, chunks)
        for position in answer.positions:
            expect_logits(answer, position, logits[position])
        chosen = logits[len(answer.prompt) - 1 :].argmax(-1)
        assert chosen.tolist() == list(answer.continuation)


def test_last_logits_are_the_last_of_all(golden: Golden, runner: Runner) -> None:
    prompt = golden.answers[2].prompt
    every = runner.prefill(0, prompt, 0, all_logits=True)
    assert every.shape == (len(prompt), golden.config["vocab_size"])
    assert np.array_equal(runner.prefill(2, prompt, 0), every[-1])


def test_interleaved_slots_answer_as_if_alone(golden: Golden, runner: Runner) -> None:
    """Prompts arrive while others decode, in changing orders, and freed slots are used again."""
    waiting = [*golden.answers, *reversed(golden.answers), golden.answers[1]]
    slots: dict[int, tuple[Answer, list[int]]] = {}
    step = 0
    while waiting or slots:
        free = [slot for slot in range(runner.batch_size) if slot not in slots]
        if waiting and free and step % 3 == 0:
            answer = waiting.pop(0)
            slots[free[-1]] = (answer, [int(feed(runner, free[-1], answer.prompt)[-1].argmax())])
        # One of the busy slots rests in each step, and the order of rows turns.
        busy = sorted(slots, key=lambda slot: (slot + step) % runner.batch_size)
        busy = busy[1:] or busy
        tokens = [slots[slot][1][-1] for slot in busy]
        positions = [len(slots[s][0].prompt) + len(slots[s][1]) - 1 for s in busy]
        for slot, row in zip(busy, runner.decode(busy, tokens, positions), strict=True):
            answer, chosen = slots[slot]
            chosen.append(int(row.argmax()))
            if len(chosen) == len(answer.continuation):
                assert chosen == list(answer.continuation)
                del slots[slot]
        step += 1


def test_a_row_does_not_depend_on_the_others(golden: Golden, runner: Runner) -> None:
    """To the last bit, or sampled text would change with the load of the server."""
    for slot, answer in enumerate(golden.answers):
        feed(runner, slot, answer.prompt)
    tokens = [answer.continuation[0] for answer in golden.answers]
    positions = [len(answer.prompt) for answer in golden.answers]
    alone = [runner.decode([s], [tokens[s]], [positions[s]])[0] for s in range(len(tokens))]
    for count in range(2, len(tokens) + 1):
        for slots in itertools.permutations(range(len(tokens)), count):
            rows = runner.decode(slots, [tokens[s] for s in slots], [positions[s] for s in slots])
            for slot, row in zip(slots, rows, strict=True):
                assert np.array_equal(row, alone[slot]), f"slot {slot} beside {slots}"


def test_threads_share_the_work(golden: Golden, workshop: Workshop) -> None:
    """Three, so that most matrices do not divide evenly."""
    with workshop.open(golden.model, SHARED) as runner:
        for slot, answer in enumerate(golden.answers[1:3]):
            tokens = continue_greedily(runner, slot, answer.prompt, len(answer.continuation))
            assert tokens == list(answer.continuation)


def test_warm_up_leaves_no_trace(golden: Golden, runner: Runner) -> None:
    answer = golden.answers[3]
    first = feed(runner, 0, answer.prompt)[-1]
    runner.warm_up()
    row = runner.decode([0], [int(first.argmax())], [len(answer.prompt)])[0]
    assert int(row.argmax()) == answer.continuation[1]


def test_bfloat16_logits_are_as_close_as_those_of_transformers(
    golden: Golden, workshop: Workshop
) -> None:
    expect_bfloat16_quality(golden, workshop, COARSE)


@pytest.mark.parametrize("target", OTHER_TARGETS)
@pytest.mark.parametrize("name", SOME_OF_EACH_FAMILY)
def test_every_instruction_set_this_cpu_has(name: str, target: str, workshop: Workshop) -> None:
    """``native`` is only the best of them, and each has kernels of its own."""
    golden = read_golden(name)
    small = {"context": (64,), "token": (128,), "target": target}
    with workshop.open(golden.model, replace(EXACT, **small)) as runner:
        for slot, answer in enumerate(golden.answers):
            tokens = continue_greedily(runner, slot, answer.prompt, len(answer.continuation))
            assert tokens == list(answer.continuation)
    expect_bfloat16_quality(golden, workshop, replace(COARSE, **small))


def expect_bfloat16_quality(golden: Golden, workshop: Workshop, shape: Shape) -> None:
    ours, theirs = [], []
    with workshop.open(golden.model, shape) as runner:
        for answer in golden.answers:
            # Half of the tokens through prefill, half through decode: both phases count.
            middle = max(1, len(answer.tokens) // 2)
            rows = [*feed(runner, 1, answer.tokens[:middle])]
            for position in range(middle, len(answer.tokens)):
                rows.append(runner.decode([1], [answer.tokens[position]], [position])[0])
            ours.append(
                np.stack([rows[position] for position in answer.positions]) - answer.float32
            )
            theirs.append(answer.bfloat16 - answer.float32)
    error, unit = np.concatenate(ours), np.concatenate(theirs)
    assert rms(error) <= BFLOAT16_RMS * rms(unit)
    assert np.abs(error).max() <= BFLOAT16_LARGEST * np.abs(unit).max()


def rms(values: Logits) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def expect_logits(answer: Answer, position: int, logits: Logits) -> None:
    if position in answer.positions:
        expected = answer.float32[answer.positions.index(position)]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=FLOAT32_TOLERANCE)
