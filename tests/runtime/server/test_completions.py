"""Text completions: the same text as the engine alone, in OpenAI's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from neuron_artifacts.runtime.params import SamplingParams
from tests.runtime.server.harness import RunningServer, read_events, reference, running, toy_state

GREEDY = {"temperature": 0, "ignore_eos": True}
ENGINE_GREEDY = {"temperature": 0.0, "ignore_eos": True}


def complete(server: RunningServer, **body: Any) -> dict[str, Any]:
    response = httpx.post(server.url + "/v1/completions", json={"model": "toy", **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_shape(server: RunningServer) -> None:
    body = complete(server, prompt="Hello world", max_tokens=5, **GREEDY)
    expected = reference(server.state, "Hello world", SamplingParams(max_tokens=5, **ENGINE_GREEDY))
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "toy",
        "system_fingerprint": "na-toy",
        "choices": [
            {
                "index": 0, "text": expected.outputs[0].text, "logprobs": None,
                "finish_reason": "length", "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": len(expected.prompt_token_ids), "completion_tokens": 5,
            "total_tokens": len(expected.prompt_token_ids) + 5, "prompt_tokens_details": None,
        },
    }  # fmt: skip


def test_sixteen_tokens_unless_told(server: RunningServer) -> None:
    assert complete(server, prompt="Hello", **GREEDY)["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "singles"),
    [
        ("Hello", ["Hello"]),
        (["Hello", "world", "12"], ["Hello", "world", "12"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7], list(range(100))], [[5, 6], [7], list(range(100))]),
        (["mixed", [5, 6]], ["mixed", [5, 6]]),
    ],
)
def test_prompt_shapes(server: RunningServer, prompt: Any, singles: list[Any]) -> None:
    body = complete(server, prompt=prompt, max_tokens=6, **GREEDY)
    params = SamplingParams(max_tokens=6, **ENGINE_GREEDY)
    expected = [reference(server.state, single, params) for single in singles]
    assert [choice["index"] for choice in body["choices"]] == list(range(len(singles)))
    assert [choice["text"] for choice in body["choices"]] == [e.outputs[0].text for e in expected]
    assert body["usage"]["prompt_tokens"] == sum(len(e.prompt_token_ids) for e in expected)
    assert body["usage"]["completion_tokens"] == 6 * len(singles)


def test_n_answers_to_each_prompt(server: RunningServer) -> None:
    body = complete(server, prompt=["Hello", "world"], n=3, seed=7, max_tokens=8, ignore_eos=True)
    params = SamplingParams(n=3, seed=7, max_tokens=8, ignore_eos=True)
    expected = [
        output.text
        for prompt in ("Hello", "world")
        for output in reference(server.state, prompt, params).outputs
    ]
    assert [choice["text"] for choice in body["choices"]] == expected
    assert len(set(expected)) == 6
    # A prompt counts once however many answers it gets.
    prompt_tokens = sum(len(server.state.tokenizer.encode(p)) for p in ("Hello", "world"))
    assert body["usage"]["prompt_tokens"] == prompt_tokens
    assert body["usage"]["completion_tokens"] == 6 * 8


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7, "seed": 3},
        {"temperature": 1.5, "seed": 3, "top_p": 0.5},
        {"temperature": 1.5, "seed": 3, "top_k": 3},
        {"temperature": 1.5, "seed": 3, "min_p": 0.2},
        {"temperature": 0.0, "repetition_penalty": 1.8},
        {"temperature": 0.0, "presence_penalty": -2.0},
        {"temperature": 0.0, "frequency_penalty": -2.0},
        {"temperature": 0.0, "logit_bias": {"a": 100.0}},
        {"temperature": 0.0, "min_tokens": 20, "logit_bias": {"</s>": 100.0}},
        {"temperature": 0.0, "stop_token_ids": list(range(40, 100))},
        {"temperature": 0.0, "skip_special_tokens": False, "logit_bias": {"<|user|>": 100.0}},
    ],
    ids=str,
)
def test_sampling_fields_reach_the_engine(server: RunningServer, fields: dict[str, Any]) -> None:
    """Each gives what the engine gives, and something else than leaving it out."""
    spelled = fields.get("logit_bias", {})
    bias = {server.state.tokenizer.token_to_id(token): value for token, value in spelled.items()}
    body = complete(
        server, prompt="Hello world", max_tokens=40,
        **{**fields, "logit_bias": {str(token): value for token, value in bias.items()}},
    )  # fmt: skip
    params = SamplingParams(max_tokens=40, **{**fields, "logit_bias": bias})
    assert (
        body["choices"][0]["text"] == reference(server.state, "Hello world", params).outputs[0].text
    )
    plain = {"temperature": fields["temperature"], "seed": fields.get("seed")}
    if set(fields) - set(plain):
        default = complete(server, prompt="Hello world", max_tokens=40, **plain)
        assert body["choices"][0] != default["choices"][0]


@pytest.mark.parametrize("included", [False, True])
def test_stop_strings(server: RunningServer, included: bool) -> None:
    fields = {"prompt": "Hello", "max_tokens": 60, **GREEDY}
    whole = complete(server, **fields)["choices"][0]["text"]
    stop = whole[20:23]
    body = complete(server, **fields, stop=["never", stop], include_stop_str_in_output=included)
    end = whole.index(stop) + (len(stop) if included else 0)
    choice = body["choices"][0]
    assert choice["text"] == whole[:end]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)


def test_stop_token(server: RunningServer) -> None:
    choice = complete(
        server, prompt="Hello", temperature=0, logit_bias={"70": 100}, stop_token_ids=[70]
    )["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", 70)


def test_end_of_text(server: RunningServer) -> None:
    eos = server.state.tokenizer.eos_token_ids[0]
    body = complete(server, prompt="Hello", temperature=0, logit_bias={str(eos): 100})
    assert body["choices"][0]["text"] == ""
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["stop_reason"] is None
    assert body["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_echo(server: RunningServer, stream: bool) -> None:
    fields = {"model": "toy", "prompt": ["Hello", [5, 6]], "n": 2, "seed": 1, "max_tokens": 3}
    plain = complete(server, **fields)
    response = httpx.post(
        server.url + "/v1/completions", json={**fields, "echo": True, "stream": stream}
    )
    texts = [""] * 4
    for body in read_events(response.text) if stream else [response.json()]:
        for choice in body["choices"]:
            texts[choice["index"]] += choice["text"]
    prefix = server.state.tokenizer.decode([5, 6])
    expected = [
        start + choice["text"]
        for start, choice in zip(["Hello"] * 2 + [prefix] * 2, plain["choices"], strict=True)
    ]
    assert texts == expected


def test_echo_alone_generates_nothing(server: RunningServer) -> None:
    before = server.metrics()["vllm:generation_tokens_total"]
    body = complete(server, prompt="Hello", echo=True, max_tokens=0)
    assert body["choices"][0]["text"] == "Hello"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert server.metrics()["vllm:generation_tokens_total"] == before


@pytest.mark.parametrize("count", [0, 1, 3])
def test_logprobs(server: RunningServer, count: int) -> None:
    body = complete(server, prompt="Hello", max_tokens=12, seed=2, ignore_eos=True, logprobs=count)
    params = SamplingParams(max_tokens=12, seed=2, ignore_eos=True, logprobs=count)
    expected = reference(server.state, "Hello", params).outputs[0]
    assert expected.logprobs is not None
    found = body["choices"][0]["logprobs"]
    sampled = [p[t] for t, p in zip(expected.token_ids, expected.logprobs, strict=True)]
    assert found["tokens"] == [entry.decoded_token for entry in sampled]
    assert found["token_logprobs"] == [entry.logprob for entry in sampled]
    lengths = [len(token) for token in found["tokens"]]
    assert found["text_offset"] == [sum(lengths[:i]) for i in range(12)]
    for top, position in zip(found["top_logprobs"], expected.logprobs, strict=True):
        ranked = sorted(position.values(), key=lambda entry: -entry.rank)
        assert top == {entry.decoded_token: entry.logprob for entry in ranked}
        assert list(top.values()) == sorted(top.values(), reverse=True)


def test_defaults_come_from_the_generation_configuration(folder: Path) -> None:
    defaults = {"temperature": 0.0, "repetition_penalty": 1.7}
    with running(toy_state(folder, defaults=defaults)) as server:
        body = complete(server, prompt="Hello", max_tokens=20)
        params = SamplingParams(max_tokens=20, temperature=0.0, repetition_penalty=1.7)
        assert (
            body["choices"][0]["text"] == reference(server.state, "Hello", params).outputs[0].text
        )
        body = complete(server, prompt="Hello", max_tokens=20, repetition_penalty=1.0)
        params = SamplingParams(max_tokens=20, temperature=0.0)
        assert (
            body["choices"][0]["text"] == reference(server.state, "Hello", params).outputs[0].text
        )


def test_special_tokens_on_request_only(server: RunningServer) -> None:
    framed = complete(server, prompt="Hello", max_tokens=1)["usage"]["prompt_tokens"]
    bare = complete(server, prompt="Hello", max_tokens=1, add_special_tokens=False)
    assert bare["usage"]["prompt_tokens"] == framed - 1
