"""From what a client sent to the token ids the engine reads, refusing what cannot fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from neuron_artifacts.errors import ContextLengthError, RequestError
from neuron_artifacts.runtime.chat import render_chat
from neuron_artifacts.runtime.server.fit import chars_per_token
from neuron_artifacts.runtime.server.protocol import Conversation
from neuron_artifacts.runtime.server.state import ServerState

SHORT_CHARS = 16_384
"""Texts up to this length are tokenized on the event loop, in about the time a hand-over takes."""

_RESERVED = frozenset(
    {
        "template", "compiled", "messages", "tools", "documents",
        "add_generation_prompt", "continue_final_message",
    }
)  # fmt: skip

Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt ready for the engine; ``text`` is ``None`` where the client sent tokens."""

    token_ids: list[int]
    text: str | None = None


async def encode_prompts(
    state: ServerState, prompts: Sequence[str | list[int]], *, add_special_tokens: bool
) -> list[EncodedPrompt]:
    """Tokenize what is text; the engine checks the tokens.

    Raises
    ------
    ContextLengthError
        A text is so long that it cannot fit.
    """

    def encode() -> list[EncodedPrompt]:
        return [_encode(state, prompt, add_special_tokens) for prompt in prompts]

    chars = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
    return await _run(state, encode, chars)


async def encode_conversation(state: ServerState, conversation: Conversation) -> EncodedPrompt:
    """Render a conversation with the chat template and tokenize it."""

    def encode() -> EncodedPrompt:
        text = _render(state, conversation)
        return _encode(state, text, conversation.add_special_tokens, "messages")

    return await _run(state, encode, len(str(conversation.messages)))


def _encode(
    state: ServerState, prompt: str | list[int], add_special_tokens: bool, param: str = "prompt"
) -> EncodedPrompt:
    if not isinstance(prompt, str):
        return EncodedPrompt(prompt)
    _check_chars(state, prompt, param)
    return EncodedPrompt(state.tokenizer.encode(prompt, add_special_tokens), prompt)


def _check_chars(state: ServerState, text: str, param: str) -> None:
    if len(text) <= max(SHORT_CHARS, state.max_model_len):
        return
    widest = chars_per_token(state.model_root)
    if widest is not None and len(text) > widest * state.max_model_len:
        raise ContextLengthError(
            f"this model's maximum context length is {state.max_model_len} tokens, too few for "
            f"the {len(text)} characters of the prompt", hint="shorten the prompt", param=param,
        )  # fmt: skip


def _render(state: ServerState, conversation: Conversation) -> str:
    extra = conversation.chat_template_kwargs
    if taken := sorted(_RESERVED & extra.keys()):
        raise RequestError(
            f"chat_template_kwargs may not set {', '.join(taken)}", param="chat_template_kwargs"
        )
    tools = conversation.tools if conversation.tool_choice != "none" else []
    try:
        return render_chat(
            state.tokenizer.chat_template(tools=bool(tools)),
            conversation.messages,
            tools=tools or None,
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final_message=conversation.continue_final_message,
            **{**state.tokenizer.special_tokens, **extra},
        )
    except RecursionError:
        raise RequestError("the messages are nested too deeply", param="messages") from None


async def _run(state: ServerState, work: Callable[[], Result], chars: int) -> Result:
    if chars <= SHORT_CHARS:
        return work()
    # One worker: long texts wait for each other, not the event loop or short texts for them.
    return await asyncio.get_running_loop().run_in_executor(state.tokenizing, work)
