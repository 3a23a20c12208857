"""Sampling options: what is refused, and what is read leniently."""

from __future__ import annotations

import math
from typing import Any

import pytest

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime.params import SamplingParams


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n", [0, -1, 129, 1.5, "1", True, None]),
        ("temperature", [-0.1, math.nan, math.inf, "hot", None]),
        ("top_p", [0, -1, 1.01, math.nan, "x", None]),
        ("top_k", [-2, 0.5, None]),
        ("min_p", [-0.1, 1.1, math.nan]),
        ("presence_penalty", [-2.1, 2.1, math.nan]),
        ("frequency_penalty", [-2.1, 2.1, math.nan]),
        ("repetition_penalty", [0, -1, 101, math.nan]),
        ("seed", [1.5, "1", True]),
        ("max_tokens", [0, -1, 2.0]),
        ("min_tokens", [-1, 17, None]),
        ("logprobs", [-1, 21, True]),
        ("stop", ["", ["a", ""], [3]]),
        ("stop_token_ids", [["a"], [1.5]]),
        ("logit_bias", [{"x": 1}, {1: "x"}, {1: math.nan}, {1: math.inf}, [1]]),
    ],
)
def test_refuses_and_names_the_option(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(RequestError) as caught:
            SamplingParams(**{name: value})
        assert caught.value.param == name
        assert name.split("_")[0] in caught.value.message


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"stop": "x"}, "stop", ("x",)),
        ({"stop": ["x", "y"]}, "stop", ("x", "y")),
        ({"stop": None}, "stop", ()),
        ({"stop_token_ids": None}, "stop_token_ids", ()),
        ({"logit_bias": {"5": -100}}, "logit_bias", {5: -100.0}),
        ({"logit_bias": None}, "logit_bias", {}),
        ({"top_k": -1}, "top_k", -1),
        ({"max_tokens": None, "min_tokens": 99}, "min_tokens", 99),
        ({"seed": -7}, "seed", -7),
    ],
)
def test_reads(options: dict[str, Any], name: str, expected: Any) -> None:
    assert getattr(SamplingParams(**options), name) == expected


def test_changing_some_checks_again() -> None:
    params = SamplingParams(temperature=0.5, max_tokens=8)
    assert params.with_changes(max_tokens=9) == SamplingParams(temperature=0.5, max_tokens=9)
    with pytest.raises(RequestError):
        params.with_changes(n=0)
