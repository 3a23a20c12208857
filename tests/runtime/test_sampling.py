"""Sampling against a slow reference written from the options' definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.errors import EngineError
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.sampling import Sampler, keep_candidates, rank_logprobs

VALUES = st.integers(-480, 480).map(lambda v: v / 16)
"""Logits that differ do so by more than rounding."""

ROWS = st.lists(VALUES, min_size=2, max_size=40).map(lambda v: np.array(v, np.float32))
COARSE = st.lists(st.integers(-3, 3), min_size=2, max_size=40).map(lambda v: np.array(v, "f4"))


def adjust_slowly(logits: Any, params: SamplingParams, prompt: list[int], output: list[int]) -> Any:
    """Bias and penalties, one token at a time."""
    row = [float(v) for v in logits]
    for token in range(len(row)):
        row[token] += params.logit_bias.get(token, 0)
        if token in prompt or token in output:
            factor = params.repetition_penalty
            row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
        row[token] -= params.frequency_penalty * output.count(token)
        row[token] -= params.presence_penalty * (token in output)
    return np.array(row, np.float32)


def keep_slowly(logits: Any, temperature: float, top_k: int, top_p: float, min_p: float) -> Any:
    """Which tokens stay and with which probability, from sorted Python lists."""
    weights = [math.exp((float(v) - float(max(logits))) / temperature) for v in logits]
    kept = [i for i, weight in enumerate(weights) if weight >= min_p]
    if 0 < top_k < len(kept):
        edge = sorted((logits[i] for i in kept), reverse=True)[top_k - 1]
        kept = [i for i in kept if logits[i] >= edge]
    mass = sum(weights[i] for i in kept)
    nucleus, reached = [], 0.0
    for i in sorted(kept, key=lambda i: (-logits[i], i)):
        if top_p < 1 and reached >= top_p * mass:
            break
        nucleus.append(i)
        reached += weights[i]
    total = sum(weights[i] for i in nucleus)
    return {i: weights[i] / total for i in nucleus}


@settings(max_examples=200, deadline=None)
@given(
    rows=ROWS | COARSE,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([-1, 0, 1, 2, 5, 100]),
    top_p=st.sampled_from([0.05, 0.3, 0.71, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.017, 0.33, 1.0]),
)
def test_keeps_what_the_options_say(
    rows: Any, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    expected = keep_slowly(rows, temperature, top_k, top_p, min_p)
    ids, weights = keep_candidates(rows, temperature, top_k, top_p, min_p)
    ids = np.arange(rows.size) if ids is None else ids
    assert list(ids) == sorted(ids)
    chances = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    # Rounding may move a token whose share of the mass is nothing, or one exactly at the edge.
    for token in expected.keys() ^ chances.keys():
        edge = abs(sum(v for i, v in expected.items() if i != token) - top_p) < 1e-5
        assert edge or max(expected.get(token, 0), chances.get(token, 0)) < 1e-5
    for token in expected.keys() & chances.keys():
        assert chances[token] == pytest.approx(expected[token], abs=2e-4)


@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.9999])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 10.0])
def test_nucleus_of_a_large_vocabulary(top_p: float, scale: float) -> None:
    rows = (scale * np.random.default_rng(1).standard_normal(150_000)).astype(np.float32)
    ids, _ = keep_candidates(rows, 1.0, 0, top_p, 0.0)
    assert ids is not None
    chances = np.exp(rows - rows.max(), dtype=np.float64)
    chances /= chances.sum()
    assert chances[ids].sum() >= top_p - 1e-6
    assert chances[ids].sum() - chances[ids].min() < top_p + 1e-6
    dropped = np.delete(rows, ids)
    assert not dropped.size or rows[ids].min() >= dropped.max()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 6, "top_p": 0.9, "min_p": 0.05, "temperature": 1.5},
    ],
)
def test_draws_the_distribution(options: dict[str, Any]) -> None:
    rows = np.array([1.0, 0.5, 2.0, -1.0, 0.0, 1.5, -3.0, 2.0], np.float32)
    params = SamplingParams(seed=7, **options)
    sampler = Sampler(params)
    drawn = np.bincount([sampler.sample(rows)[0] for _ in range(20_000)], minlength=rows.size)
    expected = keep_slowly(rows, params.temperature, params.top_k, params.top_p, params.min_p)
    for token in range(rows.size):
        chance = expected.get(token, 0.0)
        deviation = math.sqrt(20_000 * chance * (1 - chance))
        assert abs(drawn[token] - 20_000 * chance) <= 5 * deviation
        assert (drawn[token] > 0) == (chance > 0)


@settings(max_examples=100, deadline=None)
@given(
    rows=ROWS,
    prompt=st.lists(st.integers(0, 1), max_size=4),
    bias=st.dictionaries(st.integers(0, 1), st.floats(-5, 5, width=32), max_size=2),
    penalties=st.tuples(*[st.floats(-2, 2, width=16)] * 2, st.floats(0.5, 2, width=16)),
)
def test_greedy_takes_the_best_after_penalties(
    rows: Any, prompt: list[int], bias: dict[int, float], penalties: tuple[float, float, float]
) -> None:
    params = SamplingParams(
        temperature=0, logit_bias=bias, presence_penalty=penalties[0],
        frequency_penalty=penalties[1], repetition_penalty=penalties[2],
    )  # fmt: skip
    sampler = Sampler(params, prompt_token_ids=prompt)
    output: list[int] = []
    for _ in range(4):
        expected = adjust_slowly(rows, params, prompt, output)
        token, _ = sampler.sample(rows)
        assert expected[token] == pytest.approx(expected.max(), abs=1e-4)
        output.append(token)


def test_greedy_takes_the_first_among_equals() -> None:
    rows = np.array([0, 3, 3, 1], np.float32)
    assert [Sampler(SamplingParams(temperature=0)).sample(rows)[0] for _ in range(3)] == [1, 1, 1]


def test_bias_comes_before_penalties() -> None:
    # (-1 + 3) / 2.5 is more than 0.7; the other way round, -1 * 2.5 + 3 is less.
    rows = np.array([-1.0, 0.7], np.float32)
    params = SamplingParams(temperature=0, logit_bias={0: 3.0}, repetition_penalty=2.5)
    assert Sampler(params, prompt_token_ids=[0]).sample(rows)[0] == 0


@pytest.mark.parametrize("forbidden", [{2}, {2, 3}, {2, 3, 99}])
def test_min_tokens_forbids_the_end(forbidden: set[int]) -> None:
    rows = np.array([0, 1, 9, 8], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, min_tokens=2), forbidden_early=forbidden)
    best = 3 if forbidden == {2} else 1
    assert [sampler.sample(rows)[0] for _ in range(3)] == [best, best, 2]


def test_the_logits_stay_as_they_were() -> None:
    rows = np.linspace(-1, 1, 9, dtype=np.float32)
    before = rows.copy()
    params = SamplingParams(
        seed=1, top_p=0.7, top_k=4, min_p=0.1, repetition_penalty=1.3, presence_penalty=1,
        logit_bias={3: 2}, min_tokens=3, logprobs=2,
    )  # fmt: skip
    sampler = Sampler(params, prompt_token_ids=[1], forbidden_early={8})
    for _ in range(5):
        sampler.sample(rows)
    assert (rows == before).all()


def draw(seed: int | None, index: int = 0) -> list[int]:
    sampler = Sampler(SamplingParams(seed=seed), index=index)
    return [sampler.sample(np.zeros(1000, np.float32))[0] for _ in range(12)]


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1, -5])
def test_a_seed_repeats(seed: int) -> None:
    assert draw(seed) == draw(seed)
    assert draw(seed, 1) == draw(seed + 1) != draw(seed)


def test_no_seed_does_not_repeat() -> None:
    assert draw(None) != draw(None)


def test_one_number_is_drawn_for_each_token() -> None:
    # So that a request's text does not change with options that leave its tokens alone.
    rows = np.array([0, 0, 0, 0, -99], np.float32)
    plain, filtered = (
        Sampler(SamplingParams(seed=3, **options))
        for options in ({}, {"top_k": 4, "logprobs": 1})  # type: ignore[arg-type]
    )
    for _ in range(50):
        assert plain.sample(rows)[0] == filtered.sample(rows)[0]


@settings(max_examples=100, deadline=None)
@given(rows=ROWS | COARSE, data=st.data())
def test_logprobs(rows: Any, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, rows.size - 1))
    count = data.draw(st.integers(0, 20))
    exact = rows.astype(np.float64) - np.log(np.exp(rows.astype(np.float64)).sum())
    order = sorted(range(rows.size), key=lambda i: (-rows[i], i))
    ranked = rank_logprobs(rows, token, count)
    assert [entry.token_id for entry in ranked] == [
        token, *(i for i in order[:count] if i != token),
    ]  # fmt: skip
    for entry in ranked:
        assert entry.rank == order.index(entry.token_id) + 1
        assert entry.logprob == pytest.approx(exact[entry.token_id], abs=1e-4)


def test_logprobs_are_of_the_raw_logits() -> None:
    rows = np.array([0.0, 1.0, 2.0], np.float32)
    params = SamplingParams(temperature=0, logit_bias={0: 50}, logprobs=1)
    token, ranked = Sampler(params).sample(rows)
    assert token == 0
    assert ranked is not None
    assert [(entry.token_id, entry.rank) for entry in ranked] == [(0, 3), (2, 1)]
    assert ranked[0].logprob == pytest.approx(-2.4076, abs=1e-4)


def test_logprobs_only_when_asked() -> None:
    assert Sampler(SamplingParams()).sample(np.zeros(3, np.float32))[1] is None


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([0, math.nan, 1], {}),
        ([0, math.nan, 1], {"temperature": 0}),
        ([math.nan] * 3, {"temperature": 0, "top_k": 1}),
        ([0, math.inf, 1], {}),
        ([-math.inf] * 3, {}),
        ([0, -math.inf], {"min_tokens": 1}),
    ],
)
def test_refuses_what_is_no_number(rows: list[float], options: dict[str, Any]) -> None:
    sampler = Sampler(SamplingParams(**options), forbidden_early={0})
    with pytest.raises(EngineError, match="no token can be chosen"):
        sampler.sample(np.array(rows, np.float32))


def test_minus_infinity_is_never_drawn() -> None:
    rows = np.full(50, -np.inf, np.float32)
    rows[7] = -1e30
    for options in ({}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5}, {"temperature": 0}):
        sampler = Sampler(SamplingParams(seed=1, logprobs=3, **options))  # type: ignore[arg-type]
        assert sampler.sample(rows)[0] == 7
