"""From a request's sampling fields to the engine's parameters."""

from __future__ import annotations

from typing import Any

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime.defaults import NEUTRAL
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.server.protocol import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from neuron_artifacts.runtime.server.state import ServerState


def completion_params(state: ServerState, request: CompletionRequest) -> SamplingParams:
    # With max_tokens 0 (echo alone) the engine is not asked, but the rest is checked all the same.
    return _make(state, request, max(request.max_tokens, 1), request.logprobs)


def chat_params(state: ServerState, request: ChatRequest) -> SamplingParams:
    limit = request.max_completion_tokens
    limit = request.max_tokens if limit is None else limit
    if limit is None:
        limit = state.defaults.get("max_tokens")
    return _make(state, request, limit, (request.top_logprobs or 0) if request.logprobs else None)


def _make(
    state: ServerState, request: GenerationRequest, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    if request.n > state.limits.max_n:
        raise RequestError(f"n must be at most {state.limits.max_n}, got {request.n}", param="n")
    return SamplingParams(
        n=request.n,
        **{name: _pick(state, request, name) for name in NEUTRAL},
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        include_stop_str_in_output=request.include_stop_str_in_output,
        ignore_eos=request.ignore_eos,
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        logprobs=logprobs,
        skip_special_tokens=request.skip_special_tokens,
        logit_bias=request.logit_bias,
    )


def _pick(state: ServerState, request: GenerationRequest, name: str) -> Any:
    asked = getattr(request, name)
    return state.defaults.get(name, NEUTRAL[name]) if asked is None else asked
