"""Sampling values a model brings along, used where nobody says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuron_artifacts.errors import RequestError, ServeError
from neuron_artifacts.runtime.params import SamplingParams

NEUTRAL = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
}  # fmt: skip
"""Used where neither the request nor the model's generation configuration says."""


def read_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling values of a model's ``generation_config.json`` that requests fall back on.

    Raises
    ------
    ServeError
        One of them is no number or out of range.
    """
    names = {**{name: name for name in NEUTRAL}, "max_new_tokens": "max_tokens"}
    found = {
        ours: generation_config[theirs]
        for theirs, ours in names.items()
        if generation_config.get(theirs) is not None
    }
    try:
        SamplingParams(**found)
    except (RequestError, TypeError) as error:
        raise ServeError(
            f"generation_config.json has unusable sampling values: {error}",
            hint="correct the model's generation_config.json and compile again",
        ) from None
    return found
