"""``POST /v1/completions``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime.outputs import SequenceDelta
from neuron_artifacts.runtime.server.body import read_model
from neuron_artifacts.runtime.server.generation import Generation, Piece
from neuron_artifacts.runtime.server.logprobs import completion_logprobs
from neuron_artifacts.runtime.server.prompts import EncodedPrompt, encode_prompts
from neuron_artifacts.runtime.server.protocol import CompletionRequest
from neuron_artifacts.runtime.server.responses import (
    Completion,
    CompletionChoice,
    Usage,
    json_response,
    make_usage,
)
from neuron_artifacts.runtime.server.sampling import completion_params
from neuron_artifacts.runtime.server.state import ServerState, get_state
from neuron_artifacts.runtime.server.streaming import EventStream, StreamUsage

router = APIRouter()


@router.post("/v1/completions", responses={200: {"model": Completion}})
async def create_completion(request: Request) -> Response:
    """Continue each prompt ``n`` times; choice ``prompt * n + i`` is the i-th answer to it."""
    state = get_state(request)
    body = await read_model(request, CompletionRequest)
    model = state.check_model(body.model)
    params = completion_params(state, body)
    _check_count(state, len(body.prompt) * body.n)
    prompts = await encode_prompts(state, body.prompt, add_special_tokens=body.add_special_tokens)
    writer = _Writer(state, body, prompts, f"cmpl-{request.state.request_id}", model)
    generation = Generation(state, prompts, params, arrived=request.state.arrived)
    if body.max_tokens == 0:
        generation.check()
        return json_response(writer.prompts_alone())
    generation.start()
    if body.stream:
        return EventStream(generation, writer.chunks(generation.pieces()))
    return json_response(writer.whole(await generation.collect(request.receive)))


def _check_count(state: ServerState, sequences: int) -> None:
    most = state.limits.max_sequences
    if sequences > most:
        raise RequestError(f"{sequences} answers at once are more than {most}", param="prompt")


class _Writer:
    """Puts the answer to one request into OpenAI's shape."""

    def __init__(
        self,
        state: ServerState,
        body: CompletionRequest,
        prompts: Sequence[EncodedPrompt],
        answer_id: str,
        model: str,
    ) -> None:
        self._state, self._body, self._prompts = state, body, prompts
        self._id, self._model, self._created = answer_id, model, int(time.time())
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)

    def prompts_alone(self) -> Completion:
        """What ``echo`` gives with ``max_tokens: 0``."""
        nothing = SequenceDelta("", 0, [], "", finish_reason="length")
        return self.whole([nothing] * (len(self._prompts) * self._body.n))

    def whole(self, answers: Sequence[SequenceDelta]) -> Completion:
        usage = make_usage(self._prompt_tokens, sum(len(answer.token_ids) for answer in answers))
        choices = [self._choice(Piece(*numbered), 0) for numbered in enumerate(answers)]
        return self._frame(choices, usage=usage)

    async def chunks(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Completion]:
        usage = StreamUsage(self._prompt_tokens, self._body.stream_options)
        offsets: Counter[int] = Counter()
        begun: set[int] = set()
        async for piece in pieces:
            usage.add(len(piece.delta.token_ids))
            choice = self._choice(piece, offsets[piece.index], echo=piece.index not in begun)
            begun.add(piece.index)
            if choice.logprobs is not None:
                offsets[piece.index] += sum(map(len, choice.logprobs.tokens))
            yield self._frame([choice], **usage.fields())
        if usage.wanted:
            yield self._frame([], usage=usage.total())

    def _choice(self, piece: Piece, offset: int, *, echo: bool = True) -> CompletionChoice:
        delta = piece.delta
        prefix = self._prompt_text(piece.index) if echo and self._body.echo else ""
        return CompletionChoice(
            index=piece.index,
            text=prefix + delta.text,
            logprobs=completion_logprobs(delta, offset),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
        )

    def _prompt_text(self, index: int) -> str:
        prompt = self._prompts[index // self._body.n]
        if prompt.text is not None:
            return prompt.text
        return self._state.tokenizer.decode(
            prompt.token_ids, skip_special_tokens=self._body.skip_special_tokens
        )

    def _frame(self, choices: list[CompletionChoice], **usage: Usage | None) -> Completion:
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=self._state.fingerprint,
            **usage,
        )
