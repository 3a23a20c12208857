from __future__ import annotations

from typing import Any

import pytest

from neuron_artifacts.errors import ServeError
from neuron_artifacts.runtime.defaults import read_defaults


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        ({}, {}),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {"temperature": 0.6, "top_p": 0.9}),
        ({"top_k": 20, "temperature": None}, {"top_k": 20}),
        ({"max_new_tokens": 64, "eos_token_id": 2}, {"max_tokens": 64}),
    ],
)
def test_only_sampling_values_are_taken(config: dict[str, Any], defaults: dict[str, Any]) -> None:
    assert read_defaults(config) == defaults


@pytest.mark.parametrize("config", [{"temperature": "hot"}, {"top_p": 7}, {"max_new_tokens": 0}])
def test_unusable_values_are_named(config: dict[str, Any]) -> None:
    with pytest.raises(ServeError, match="unusable sampling values"):
        read_defaults(config)
