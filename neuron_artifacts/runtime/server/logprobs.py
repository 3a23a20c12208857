"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence

from neuron_artifacts.runtime.outputs import Logprob, SequenceDelta, TokenLogprobs
from neuron_artifacts.runtime.server.responses import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    TokenLogprob,
)

FLOOR = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def completion_logprobs(delta: SequenceDelta, offset: int) -> CompletionLogprobs | None:
    """The legacy shape; ``offset`` is how many characters of tokens came before."""
    if delta.logprobs is None:
        return None
    sampled = _sampled(delta.token_ids, delta.logprobs)
    offsets = []
    for entry in sampled:
        offsets.append(offset)
        offset += len(entry.decoded_token)
    return CompletionLogprobs(
        text_offset=offsets,
        token_logprobs=[_finite(entry) for entry in sampled],
        tokens=[entry.decoded_token for entry in sampled],
        top_logprobs=[_by_spelling(position) for position in delta.logprobs],
    )


def chat_logprobs(delta: SequenceDelta, top: int) -> ChatLogprobs | None:
    """The chat shape, with exactly the ``top`` likeliest tokens at each position."""
    if delta.logprobs is None:
        return None
    content = []
    for entry, position in zip(
        _sampled(delta.token_ids, delta.logprobs), delta.logprobs, strict=True
    ):
        ranked = [_entry(other) for other in _ranked(position)[:top]]
        content.append(ChatTokenLogprob(**_entry(entry).model_dump(), top_logprobs=ranked))
    return ChatLogprobs(content=content)


def _sampled(token_ids: Sequence[int], positions: Sequence[TokenLogprobs]) -> list[Logprob]:
    return [position[token_id] for token_id, position in zip(token_ids, positions, strict=True)]


def _ranked(position: TokenLogprobs) -> list[Logprob]:
    return sorted(position.values(), key=lambda entry: entry.rank)


def _by_spelling(position: TokenLogprobs) -> dict[str, float]:
    spelled: dict[str, float] = {}
    for entry in _ranked(position):  # of tokens spelled alike, the likeliest stays
        spelled.setdefault(entry.decoded_token, _finite(entry))
    return spelled


def _entry(entry: Logprob) -> TokenLogprob:
    return TokenLogprob(
        token=entry.decoded_token,
        logprob=_finite(entry),
        bytes=list(entry.decoded_token.encode()),
    )


def _finite(entry: Logprob) -> float:
    return max(entry.logprob, FLOOR)
