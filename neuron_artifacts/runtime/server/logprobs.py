"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from neuron_artifacts.runtime.outputs import Logprob, SequenceDelta, TokenLogprobs
from neuron_artifacts.runtime.server.responses import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    TokenLogprob,
)
from neuron_artifacts.runtime.tokenizer import Tokenizer

FLOOR = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def completion_logprobs(delta: SequenceDelta, offset: int) -> CompletionLogprobs | None:
    """The legacy shape; ``offset`` is how many characters of tokens came before."""
    if delta.logprobs is None:
        return None
    sampled = [
        position[token_id]
        for token_id, position in zip(delta.token_ids, delta.logprobs, strict=True)
    ]
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


def chat_logprobs(delta: SequenceDelta, top: int, tokenizer: Tokenizer) -> ChatLogprobs | None:
    """The chat shape, with exactly the ``top`` likeliest tokens at each position."""
    if delta.logprobs is None:
        return None
    content = []
    for token_id, position in zip(delta.token_ids, delta.logprobs, strict=True):
        entries = {i: _entry(tokenizer, i, position[i]) for i in _ranked(position)}
        content.append(
            ChatTokenLogprob(
                **entries[token_id].model_dump(), top_logprobs=list(entries.values())[:top]
            )
        )
    return ChatLogprobs(content=content)


def token_bytes(tokenizer: Tokenizer, token_id: int, text: str) -> bytes:
    """The bytes a token stands for, also where they are only a part of a character.

    Vocabularies with bytes to fall back on spell them ``<0xE4>``; byte-level ones spell each byte
    as one character of a fixed alphabet (GPT-2's).
    """
    spelling = tokenizer.id_to_token(token_id) or ""
    if "\ufffd" not in text or not spelling:
        return text.encode()
    if len(spelling) == 6 and spelling.startswith("<0x"):
        return bytes.fromhex(spelling[3:5])
    alphabet = _byte_alphabet()
    if not all(character in alphabet for character in spelling):
        return text.encode()
    return bytes(alphabet[character] for character in spelling)


@functools.cache
def _byte_alphabet() -> Mapping[str, int]:
    """Printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + place): byte for place, byte in enumerate(others)},
    }


def _ranked(position: TokenLogprobs) -> list[int]:
    return sorted(position, key=lambda token_id: position[token_id].rank)


def _by_spelling(position: TokenLogprobs) -> dict[str, float]:
    spelled: dict[str, float] = {}
    for token_id in _ranked(position):  # of tokens spelled alike, the likeliest stays
        entry = position[token_id]
        spelled.setdefault(entry.decoded_token, _finite(entry))
    return spelled


def _entry(tokenizer: Tokenizer, token_id: int, entry: Logprob) -> TokenLogprob:
    text = entry.decoded_token
    return TokenLogprob(
        token=text, logprob=_finite(entry), bytes=list(token_bytes(tokenizer, token_id, text))
    )


def _finite(entry: Logprob) -> float:
    return max(entry.logprob, FLOOR)
