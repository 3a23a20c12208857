"""``POST /tokenize`` and ``POST /detokenize``, in vLLM's shapes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime.server.body import check, read_object
from neuron_artifacts.runtime.server.prompts import encode_conversation, encode_prompts
from neuron_artifacts.runtime.server.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from neuron_artifacts.runtime.server.responses import (
    DetokenizeResponse,
    TokenizeResponse,
    json_response,
)
from neuron_artifacts.runtime.server.state import get_state

router = APIRouter()


@router.post("/tokenize", responses={200: {"model": TokenizeResponse}})
async def tokenize(request: Request) -> Response:
    """Token ids of a ``prompt``, or of ``messages`` under the chat template."""
    state = get_state(request)
    data = await read_object(request)
    body: TokenizeChatRequest | TokenizeTextRequest
    if "messages" in data:
        body = check(data, TokenizeChatRequest)
        prompt = await encode_conversation(state, body)
    else:
        body = check(data, TokenizeTextRequest)
        (prompt,) = await encode_prompts(
            state, [body.prompt], add_special_tokens=body.add_special_tokens
        )
    state.check_model(body.model)
    ids = prompt.token_ids
    spellings = [state.tokenizer.id_to_token(i) or "" for i in ids]
    return json_response(
        TokenizeResponse(
            count=len(ids),
            max_model_len=state.max_model_len,
            tokens=ids,
            token_strs=spellings if body.return_token_strs else None,
        )
    )


@router.post("/detokenize", responses={200: {"model": DetokenizeResponse}})
async def detokenize(request: Request) -> Response:
    """The text of token ids, special tokens included."""
    state = get_state(request)
    body = check(await read_object(request), DetokenizeRequest)
    state.check_model(body.model)
    for token_id in body.tokens:
        if token_id >= state.vocab_size:
            raise RequestError(
                f"token id {token_id} is outside the vocabulary of {state.vocab_size}",
                param="tokens",
            )
    text = state.tokenizer.decode(body.tokens, skip_special_tokens=False)
    return json_response(DetokenizeResponse(prompt=text))
