"""What a generation gives back, shaped like vLLM's outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from neuron_artifacts.errors import NeuronArtifactsError

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class Logprob:
    """Log-probability of one token; ``rank`` is 1 for the likeliest."""

    logprob: float
    rank: int
    decoded_token: str


TokenLogprobs = dict[int, Logprob]
"""One position's entry: token id to log-probability, the sampled token always among them."""


@dataclass(frozen=True)
class SequenceDelta:
    """What one engine step added to one of a request's ``n`` sequences.

    ``text`` is the newly finished text (never half a character, never part of a stop string);
    ``token_ids`` are the new tokens, and ``logprobs`` has one entry for each of them where the
    request asked. ``finish_reason`` is set on the last delta of the sequence; ``stop_reason`` is
    then the stop string or stop token id that ended it, or ``None`` for the end-of-text token.
    ``error`` says why the engine gave the sequence up; ``finish_reason`` is then ``"abort"``.
    """

    request_id: str
    index: int
    token_ids: list[int]
    text: str
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: NeuronArtifactsError | None = None


@dataclass
class RequestTimes:
    """``time.monotonic()`` at the steps of a request's life, for metrics."""

    arrived: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None


@dataclass
class CompletionOutput:
    """One finished or growing sequence (vLLM: ``CompletionOutput``)."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass
class RequestOutput:
    """All sequences of one request (vLLM: ``RequestOutput``)."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
