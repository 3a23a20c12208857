"""Clients that people have work unchanged."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI

from neuron_artifacts.runtime.params import SamplingParams
from tests.runtime.server.harness import RunningServer, reference

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
GREEDY: dict[str, Any] = {"model": "toy", "temperature": 0, "max_tokens": 12}


@pytest.fixture
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture
def async_client(server: RunningServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def expect(server: RunningServer, prompt: str) -> str:
    params = SamplingParams(temperature=0.0, max_tokens=12)
    return reference(server.state, prompt, params).outputs[0].text


def expect_answer(server: RunningServer, question: str = "Hello") -> str:
    text = f"<s><|user|>{question}</s><|assistant|>"
    ids = server.state.tokenizer.encode(text, add_special_tokens=False)
    params = SamplingParams(temperature=0.0, max_tokens=12)
    return reference(server.state, ids, params).outputs[0].text


def test_openai_sync(server: RunningServer, client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert chat.choices[0].message.content == expect_answer(server)
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    text = client.completions.create(prompt="Hello", **GREEDY)
    assert text.choices[0].text == expect(server, "Hello")
    assert client.models.list().data[0].id == "toy"
    assert client.models.retrieve("toy").id == "toy"


def test_openai_streams(server: RunningServer, client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    pieces, usage = "", None
    for chunk in client.chat.completions.create(
        messages=MESSAGES, stream=True, stream_options=options, **GREEDY
    ):
        pieces += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert pieces == expect_answer(server)
    assert usage is not None
    chunks = client.completions.create(prompt="Hello", stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expect(server, "Hello")


def test_openai_stream_helper(server: RunningServer, client: openai.OpenAI) -> None:
    whole = expect_answer(server)
    with client.chat.completions.stream(messages=MESSAGES, stop=whole[4:], **GREEDY) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == whole[:4]


def test_openai_async_many_at_once(server: RunningServer, async_client: openai.AsyncOpenAI) -> None:
    """Over four slots, streamed or not, each gets what it would get alone."""
    questions = [f"{i} + {i * 7}" for i in range(32)]

    async def whole(question: str) -> str:
        answer = await async_client.chat.completions.create(
            messages=[{"role": "user", "content": question}], **GREEDY
        )
        return answer.choices[0].message.content or ""

    async def streamed(question: str) -> str:
        chunks = await async_client.chat.completions.create(
            messages=[{"role": "user", "content": question}], stream=True, **GREEDY
        )
        return "".join([c.choices[0].delta.content or "" async for c in chunks])

    async def run() -> list[str]:
        tasks = [(streamed if i % 2 else whole)(q) for i, q in enumerate(questions)]
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [expect_answer(server, question) for question in questions]


def test_openai_logprobs(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        messages=MESSAGES, logprobs=True, top_logprobs=2, **GREEDY
    )
    assert chat.choices[0].logprobs is not None
    for entry in chat.choices[0].logprobs.content or []:
        assert len(entry.top_logprobs) == 2
        assert entry.logprob == entry.top_logprobs[0].logprob
    text = client.completions.create(prompt="Hello", logprobs=1, **GREEDY)
    assert text.choices[0].logprobs is not None
    assert len(text.choices[0].logprobs.tokens or []) == text.usage.completion_tokens  # type: ignore[union-attr]


def test_openai_request_id(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        messages=MESSAGES, extra_headers={"x-request-id": "mine-1"}, **GREEDY
    )
    assert (chat._request_id, chat.id) == ("mine-1", "chatcmpl-mine-1")


def test_openai_vllm_fields(server: RunningServer, client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        messages=MESSAGES,
        extra_body={"ignore_eos": True, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
        **{**GREEDY, "max_tokens": 40},
    )
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 40


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found"),
        ({"max_tokens": 1000}, openai.BadRequestError, "context_length_exceeded"),
        ({"temperature": 500}, openai.BadRequestError, None),
    ],
)
def test_openai_errors(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: Any
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(messages=MESSAGES, **{**GREEDY, **fields})
    assert caught.value.code == code


def test_langchain(server: RunningServer) -> None:
    model = ChatOpenAI(
        base_url=server.url + "/v1",
        api_key="none",
        model="toy",
        temperature=0,
        max_tokens=12,  # type: ignore[call-arg,arg-type]
    )
    answer = model.invoke([HumanMessage("Hello")])
    assert answer.content == expect_answer(server)
    assert answer.usage_metadata is not None
    pieces = [str(chunk.content) for chunk in model.stream([HumanMessage("Hello")])]
    assert "".join(pieces) == expect_answer(server)
    answers = model.batch(["1", "2", "3"])
    assert [a.content for a in answers] == [expect_answer(server, q) for q in ("1", "2", "3")]
    assert asyncio.run(model.ainvoke("Hello")).content == expect_answer(server)


def test_langchain_text(server: RunningServer) -> None:
    model = OpenAI(
        base_url=server.url + "/v1",
        api_key="none",
        model="toy",
        temperature=0,
        max_tokens=12,  # type: ignore[arg-type]
    )
    assert model.invoke("Hello") == expect(server, "Hello")
    assert model.generate(["1", "2"]).generations[1][0].text == expect(server, "2")
