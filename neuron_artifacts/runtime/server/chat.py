"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuron_artifacts.runtime.outputs import SequenceDelta
from neuron_artifacts.runtime.server.body import read_model
from neuron_artifacts.runtime.server.generation import Generation, Piece
from neuron_artifacts.runtime.server.logprobs import chat_logprobs
from neuron_artifacts.runtime.server.prompts import EncodedPrompt, encode_conversation
from neuron_artifacts.runtime.server.protocol import ChatRequest
from neuron_artifacts.runtime.server.responses import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatDeltaChoice,
    ChatLogprobs,
    ChatMessage,
    Usage,
    json_response,
    make_usage,
)
from neuron_artifacts.runtime.server.sampling import chat_params
from neuron_artifacts.runtime.server.state import ServerState, get_state
from neuron_artifacts.runtime.server.streaming import EventStream, StreamUsage

router = APIRouter()


@router.post("/v1/chat/completions", responses={200: {"model": ChatCompletion}})
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, ``n`` times."""
    state = get_state(request)
    body = await read_model(request, ChatRequest)
    model = state.check_model(body.model)
    params = chat_params(state, body)
    prompt = await encode_conversation(state, body)
    writer = _Writer(state, body, prompt, f"chatcmpl-{request.state.request_id}", model)
    generation = Generation(state, [prompt], params, arrived=request.state.arrived)
    generation.start()
    if body.stream:
        return EventStream(generation, writer.chunks(generation.pieces()))
    return json_response(writer.whole(await generation.collect(request.receive)))


class _Writer:
    """Puts the answer to one request into OpenAI's shape."""

    def __init__(
        self,
        state: ServerState,
        body: ChatRequest,
        prompt: EncodedPrompt,
        answer_id: str,
        model: str,
    ) -> None:
        self._state, self._body = state, body
        self._id, self._model, self._created = answer_id, model, int(time.time())
        self._prompt_tokens = len(prompt.token_ids)

    def whole(self, answers: Sequence[SequenceDelta]) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(content=answer.text),
                logprobs=self._logprobs(answer),
                finish_reason=answer.finish_reason,
                stop_reason=answer.stop_reason,
            )
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._state.fingerprint,
            usage=make_usage(self._prompt_tokens, sum(len(a.token_ids) for a in answers)),
        )

    async def chunks(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[ChatCompletionChunk]:
        usage = StreamUsage(self._prompt_tokens, self._body.stream_options)
        greeted: set[int] = set()
        async for piece in pieces:
            if piece.index not in greeted:
                greeted.add(piece.index)
                yield self._frame([_greeting(piece.index)], **usage.fields())
            usage.add(len(piece.delta.token_ids))
            yield self._frame([self._choice(piece)], **usage.fields())
        if usage.wanted:
            yield self._frame([], usage=usage.total())

    def _choice(self, piece: Piece) -> ChatDeltaChoice:
        delta = piece.delta
        return ChatDeltaChoice(
            index=piece.index,
            delta=ChatDelta(content=delta.text),
            logprobs=self._logprobs(delta),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
        )

    def _logprobs(self, delta: SequenceDelta) -> ChatLogprobs | None:
        return chat_logprobs(delta, self._body.top_logprobs or 0, self._state.tokenizer)

    def _frame(self, choices: list[ChatDeltaChoice], **usage: Usage | None) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._state.fingerprint,
            **usage,
        )


def _greeting(index: int) -> ChatDeltaChoice:
    """The first chunk of a choice: who speaks."""
    return ChatDeltaChoice(
        index=index, delta=ChatDelta(role="assistant", content=""), logprobs=None,
        finish_reason=None,
    )  # fmt: skip
