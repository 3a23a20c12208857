"""What a caller asks of one generation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from neuron_artifacts.errors import RequestError

MAX_LOGPROBS = 20
MAX_N = 128
_OPTIONAL = ("max_tokens", "logprobs", "seed")


@dataclass(frozen=True)
class SamplingParams:
    """Sampling options of one request, under vLLM's names and defaults.

    ``temperature=0`` is greedy. ``top_k`` of 0 or -1 keeps every token. ``max_tokens=None``
    means: until the context is full. ``seed=None`` draws a fresh one. ``logprobs=k`` returns the
    sampled token's log-probability and those of the k likeliest tokens.

    Raises
    ------
    RequestError
        A value is out of range; ``param`` names it.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    skip_special_tokens: bool = True
    logit_bias: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        object.__setattr__(self, "logit_bias", _read_bias(self.logit_bias or {}))
        for check in (self._check_counts, self._check_reals, self._check_stops):
            check()

    def _check_counts(self) -> None:
        for name in ("n", "top_k", "min_tokens", "max_tokens", "logprobs", "seed"):
            value = getattr(self, name)
            if not (_is_whole(value) or (value is None and name in _OPTIONAL)):
                raise RequestError(f"{name} must be a whole number, got {value!r}", param=name)
        _within("n", self.n, 1, MAX_N)
        _within("top_k", self.top_k, -1, math.inf)
        _within("min_tokens", self.min_tokens, 0, math.inf)
        if self.max_tokens is not None:
            _within("max_tokens", self.max_tokens, 1, math.inf)
            if self.min_tokens > self.max_tokens:
                raise RequestError(
                    f"min_tokens ({self.min_tokens}) is larger than max_tokens "
                    f"({self.max_tokens})", param="min_tokens",
                )  # fmt: skip
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MAX_LOGPROBS)

    def _check_reals(self) -> None:
        _within("temperature", self.temperature, 0, 100)
        _within("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise RequestError("top_p must be more than 0", param="top_p")
        _within("min_p", self.min_p, 0, 1)
        _within("presence_penalty", self.presence_penalty, -2, 2)
        _within("frequency_penalty", self.frequency_penalty, -2, 2)
        _within("repetition_penalty", self.repetition_penalty, 0, 100)
        if self.repetition_penalty == 0:
            raise RequestError("repetition_penalty must be more than 0", param="repetition_penalty")

    def _check_stops(self) -> None:
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise RequestError("stop strings must be non-empty text", param="stop")
        if not all(map(_is_whole, self.stop_token_ids)):
            raise RequestError("stop_token_ids must be token ids", param="stop_token_ids")

    def with_changes(self, **changes: object) -> SamplingParams:
        """A copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within(name: str, value: float, low: float, high: float) -> None:
    try:
        inside = low <= value <= high  # also false for NaN
    except TypeError:
        inside = False
    if not inside:
        span = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise RequestError(f"{name} must be {span}, got {value!r}", param=name)


def _read_bias(bias: dict[int, float]) -> dict[int, float]:
    """Token ids to finite numbers; JSON spells the ids as text."""
    try:
        read = {int(token): float(value) for token, value in bias.items()}
    except (AttributeError, TypeError, ValueError):
        read = {0: math.nan}
    if not all(map(math.isfinite, read.values())):
        raise RequestError("logit_bias must map token ids to numbers", param="logit_bias")
    return read
