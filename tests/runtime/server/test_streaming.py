"""Server-sent events: their order, their usage, their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from neuron_artifacts.runtime.server.streaming import encode_event
from tests.runtime.server.harness import (
    RunningServer,
    eventually,
    posted,
    read_events,
    read_until,
    running,
    toy_state,
)

CHAT = {"model": "toy", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
TEXT = {"model": "toy", "prompt": "Hello", "stream": True}
BOTH = pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]
)


def stream(server: RunningServer, path: str, **body: Any) -> list[Any]:
    response = httpx.post(server.url + path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return read_events(response.text)


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["text"] if "text" in choice else choice["delta"].get("content") or "")


@BOTH
@pytest.mark.parametrize("n", [1, 3])
def test_chunks_make_up_the_whole(
    server: RunningServer, path: str, body: dict[str, Any], n: int
) -> None:
    fields = {**body, "n": n, "seed": 5, "max_tokens": 20, "logprobs": 1}
    events = stream(server, path, **fields)
    whole = httpx.post(server.url + path, json={**fields, "stream": False}).json()
    assert len({event["id"] for event in events}) == 1
    for choice in whole["choices"]:
        mine = [c for e in events for c in e["choices"] if c["index"] == choice["index"]]
        expected = choice["text"] if "text" in choice else choice["message"]["content"]
        assert "".join(map(text_of, mine)) == expected
        assert [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert join_logprobs(mine) == choice["logprobs"]


@pytest.mark.parametrize("char", ["\u0085", "\u2028", "\u2029", "\x1c", "\n", "\r", "\x0b", "é"])
def test_an_event_is_one_line_to_every_client(char: str) -> None:
    """Some split lines by Unicode's rules; the soak found it."""
    event = encode_event(Choice(text=f"a{char}b").model_dump_json()).decode()
    assert event.splitlines() == [event[:-2], ""]
    assert json.loads(event[6:]) == {"text": f"a{char}b"}


class Choice(BaseModel):
    text: str


def join_logprobs(choices: list[dict[str, Any]]) -> dict[str, list[Any]]:
    joined: dict[str, list[Any]] = {}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            joined.setdefault(name, []).extend(values)
    return joined


def test_the_role_comes_first_and_once(server: RunningServer) -> None:
    events = stream(server, "/v1/chat/completions", **CHAT, n=2, max_tokens=4)
    for index in range(2):
        deltas = [c["delta"] for e in events for c in e["choices"] if c["index"] == index]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert not any("role" in delta for delta in deltas[1:])
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


@BOTH
def test_usage_on_request(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    fields = {**body, "n": 2, "max_tokens": 5, "ignore_eos": True}
    assert not any("usage" in event for event in stream(server, path, **fields))
    *events, last = stream(server, path, **fields, stream_options={"include_usage": True})
    whole = httpx.post(server.url + path, json={**fields, "stream": False}).json()
    assert all(event["choices"] and event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert last["usage"]["completion_tokens"] == 10


@BOTH
def test_continuous_usage(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = stream(server, path, **body, max_tokens=6, ignore_eos=True, stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert {e["usage"]["total_tokens"] - e["usage"]["completion_tokens"] for e in events} == {
        events[-1]["usage"]["prompt_tokens"]
    }


@BOTH
def test_bad_requests_get_a_status_not_a_stream(
    server: RunningServer, path: str, body: dict[str, Any]
) -> None:
    response = httpx.post(server.url + path, json={**body, "max_tokens": 10_000})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("streamed", [True, False])
def test_trouble_in_the_middle(folder: Path, streamed: bool) -> None:
    """A model that gives no usable logits: said in the stream, or by the status."""
    with running(toy_state(folder, runner={"poison": 70})) as server:
        body = {**TEXT, "logit_bias": {"70": 100}, "temperature": 0, "stream": streamed}
        response = httpx.post(server.url + "/v1/completions", json=body)
        if streamed:
            *events, last = read_events(response.text)
            assert len(events) == 1
        else:
            assert response.status_code == 500
            last = response.json()
        assert last["error"]["type"] == "server_error"
        assert server.metrics()["vllm:request_success_total{finished_reason=error}"] == 1
        good = httpx.post(server.url + "/v1/completions", json={**TEXT, "logit_bias": {"70": -100}})
        assert "error" not in good.text
        assert server.running() == 0


def test_a_slow_reader_holds_up_nobody(folder: Path) -> None:
    """Its answers are generated, its slots freed, although it has read nothing of them."""
    with running(toy_state(folder)) as server:
        room = 256 - len(server.state.tokenizer.encode("<|user|>Hello</s><|assistant|>"))
        greedy = {**CHAT, "n": 16, "logprobs": True, "top_logprobs": 20, "ignore_eos": True}
        with posted(server, "/v1/chat/completions", greedy) as connection:
            eventually(lambda: server.metrics()["vllm:generation_tokens_total"] == 16 * room)
            assert server.running() == 0
            other = httpx.post(server.url + "/v1/completions", json={**TEXT, "max_tokens": 3})
            assert other.status_code == 200
            # More than fits between the two processes' sockets, so the server still has some.
            assert server.load() == 1
            received = read_until(connection, b"data: [DONE]")
        assert received.count(b'"finish_reason":"length"') == 16
        eventually(lambda: server.load() == 0)
