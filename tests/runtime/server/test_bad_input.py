"""Whatever is sent, the answer is an error object with the right status, and the server goes on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.runtime.server.harness import RunningServer

TEXT = {"model": "toy", "prompt": "Hello", "max_tokens": 2, "temperature": 0}
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
JSON = {"Content-Type": "application/json"}

BODIES = {
    "empty": b"",
    "cut off": b'{"prompt": "x"',
    "list": b"[]",
    "null": b"null",
    "nan": b'{"prompt": NaN}',
    "infinity": b'{"prompt": "x", "temperature": Infinity}',
    "deep": b'{"a":' * 100_000,
    "deep list": b'{"prompt": ' + b"[" * 100_000,
    "not utf-8": b'{"prompt": "\xff\xfe"}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "huge integer": b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
}

TEXT_FIELDS: list[tuple[str, Any]] = [
    ("prompt", []), ("prompt", [[]]), ("prompt", [1, "a"]), ("prompt", [["a"]]), ("prompt", 5),
    ("prompt", {"text": "x"}), ("prompt", [True]), ("prompt", [1.5]), ("prompt", [-1]),
    ("prompt", [10**6]), ("prompt", [2**70]), ("prompt", [[1], [10**6]]), ("prompt", None),
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", "x"), ("max_tokens", 1.5),
    ("max_tokens", 10**30), ("n", 0), ("n", -1), ("n", 10**4), ("n", []), ("best_of", 2),
    ("temperature", -0.1), ("temperature", "hot"), ("temperature", 10**400), ("top_p", 0),
    ("top_p", 1.01), ("top_k", -2), ("min_p", 1.5), ("logprobs", 21), ("logprobs", -1),
    ("logprobs", "all"), ("stop", [""]), ("stop", ""), ("stop", [1]), ("stop", {}),
    ("stop", ["x"] * 1000), ("stop", "x" * 10**5), ("stop_token_ids", [-1]),
    ("stop_token_ids", "x"), ("logit_bias", {"x": 1}), ("logit_bias", {"5": 101}),
    ("logit_bias", {"-5": 1}), ("logit_bias", {"1000000": 1}), ("logit_bias", []),
    ("seed", 2**70), ("seed", "x"), ("min_tokens", 3), ("min_tokens", -1),
    ("repetition_penalty", 0), ("presence_penalty", 2.1), ("frequency_penalty", -2.1),
    ("stream", "maybe"), ("stream_options", {"include_usage": True}), ("model", 5),
    ("response_format", {"type": "json_object"}), ("response_format", {}), ("suffix", "x"),
    ("guided_json", {"type": "object"}), ("guided_regex", "a+"), ("structured_outputs", {"a": 1}),
    ("prompt_logprobs", 1), ("use_beam_search", True), ("bad_words", ["x"]),
]  # fmt: skip

USER = {"role": "user", "content": "x"}
CHAT_FIELDS: list[tuple[str, Any]] = [
    ("messages", []), ("messages", "x"), ("messages", [1]), ("messages", [{}]), ("messages", None),
    ("messages", [{"role": 5, "content": "x"}]), ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
    ("messages", [{"role": "user", "content": [[["x"]]]}]),
    ("messages", [{"role": "assistant", "tool_calls": "x"}]),
    ("messages", [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]),
    ("messages", [{"role": "assistant", "tool_calls": [{"function": {"arguments": "[" * 10**5}}]}]),
    ("tools", "x"), ("tools", [1]), ("tool_choice", "required"), ("tool_choice", {"type": "x"}),
    ("logprobs", 5), ("top_logprobs", 3), ("continue_final_message", True),
    ("chat_template_kwargs", {"messages": []}), ("chat_template_kwargs", {"compiled": 1}),
    ("chat_template_kwargs", {"template": "x"}), ("chat_template_kwargs", []),
    ("chat_template", "{{ 1 }}"), ("functions", [{"name": "f"}]), ("audio", {"voice": "x"}),
]  # fmt: skip


def check_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "Traceback" not in response.text
    return dict(body["error"])


@pytest.fixture(autouse=True)
def _still_serves(server: RunningServer) -> Any:
    yield
    response = httpx.post(server.url + "/v1/completions", json=TEXT)
    assert response.json()["usage"]["completion_tokens"] == 2
    assert server.load() == 0


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bodies(server: RunningServer, path: str, body: bytes) -> None:
    check_error(httpx.post(server.url + path, content=body, headers=JSON), 400)


def test_a_number_that_overflows(server: RunningServer) -> None:
    body = b'{"prompt": "x", "temperature": 1e999}'
    response = httpx.post(server.url + "/v1/completions", content=body, headers=JSON)
    assert check_error(response, 400)["param"] == "temperature"


@pytest.mark.parametrize(("field", "value"), TEXT_FIELDS, ids=lambda value: str(value)[:24])
def test_text_fields(server: RunningServer, field: str, value: Any) -> None:
    response = httpx.post(server.url + "/v1/completions", json={**TEXT, field: value})
    assert check_error(response, 400)["param"] == field


@pytest.mark.parametrize(("field", "value"), CHAT_FIELDS, ids=lambda value: str(value)[:24])
def test_chat_fields(server: RunningServer, field: str, value: Any) -> None:
    response = httpx.post(server.url + "/v1/chat/completions", json={**CHAT, field: value})
    assert check_error(response, 400)["param"] == field


@pytest.mark.parametrize("value", [-1, 21])
def test_top_logprobs_are_called_so(server: RunningServer, value: int) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": value}
    error = check_error(httpx.post(server.url + "/v1/chat/completions", json=body), 400)
    assert error["param"] == "top_logprobs"
    assert error["message"].startswith("top_logprobs must be between 0 and 20")


def test_what_has_no_end_is_told_by_its_beginning(server: RunningServer) -> None:
    body = {**TEXT, "max_tokens": 0}
    error = check_error(httpx.post(server.url + "/v1/completions", json=body), 400)
    assert error["message"] == "max_tokens must be at least 1, got 0"


@pytest.mark.parametrize(
    "extra",
    [
        {"stop": None, "n": None, "seed": None, "logprobs": None, "temperature": None},
        {"stream": None, "stream_options": None, "best_of": None, "suffix": None, "echo": None},
        {"response_format": {"type": "text"}, "guided_json": None, "bad_words": []},
        {"user": "me", "metadata": {"a": [1]}, "store": False, "no_such_field": {"deep": [1]}},
        {"best_of": 1, "logit_bias": {}, "stop": [], "stop_token_ids": None},
    ],
)
def test_nulls_and_unknown_fields_are_no_error(server: RunningServer, extra: Any) -> None:
    response = httpx.post(server.url + "/v1/completions", json={**TEXT, **extra})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_answers_that_cannot_fit(server: RunningServer, limit: str) -> None:
    body = {**CHAT, "max_tokens": None, limit: 255}
    error = check_error(httpx.post(server.url + "/v1/chat/completions", json=body), 400)
    assert error["code"] == "context_length_exceeded"
    assert "256" in error["message"]


@pytest.mark.parametrize("prompt", [[5] * 193, "x " * 500, "x" * 10**6])
def test_prompts_that_cannot_fit(server: RunningServer, prompt: Any) -> None:
    response = httpx.post(server.url + "/v1/completions", json={**TEXT, "prompt": prompt})
    error = check_error(response, 400)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"


def test_one_bad_prompt_of_several_starts_none(server: RunningServer) -> None:
    before = server.metrics()["vllm:prompt_tokens_total"]
    body = {**TEXT, "prompt": [[5], [6], [5] * 193]}
    check_error(httpx.post(server.url + "/v1/completions", json=body), 400)
    assert server.metrics()["vllm:prompt_tokens_total"] == before


def test_too_many_answers_at_once(server: RunningServer) -> None:
    body = {**TEXT, "prompt": ["x"] * 100, "n": 20}
    check_error(httpx.post(server.url + "/v1/completions", json=body), 400)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/health/", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/completions", 405, "method_not_allowed"),
    ],
)
def test_routes(server: RunningServer, method: str, path: str, status: int, code: str) -> None:
    response = httpx.request(method, server.url + path)
    assert check_error(response, status)["code"] == code
    assert status != 405 or response.headers["allow"]
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_unknown_model(server: RunningServer, path: str) -> None:
    body = {**TEXT, **CHAT, "model": "other"}
    error = check_error(httpx.post(server.url + path, json=body), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_other_media_types(server: RunningServer, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    body = json.dumps(TEXT).encode()
    response = httpx.post(server.url + "/v1/completions", content=body, headers=headers)
    check_error(response, 415)


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_a_body(server: RunningServer, chunked: bool) -> None:
    size = server.state.limits.max_body_bytes + 1
    piece = b"x" * (1 << 20)
    content = iter([piece] * (size // len(piece) + 1)) if chunked else b"x" * size
    response = httpx.post(server.url + "/v1/completions", content=content, headers=JSON)
    check_error(response, 413)


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "prompt"), ({"prompt": 5}, "prompt"), ({"messages": []}, "messages")],
)
def test_tokenize(server: RunningServer, body: dict[str, Any], param: str) -> None:
    error = check_error(httpx.post(server.url + "/tokenize", json=body), 400)
    assert error["param"] == param


@pytest.mark.parametrize("tokens", [None, "x", [-1], [10**6], [2**70], [1.5], [True], [[1]]])
def test_detokenize(server: RunningServer, tokens: Any) -> None:
    error = check_error(httpx.post(server.url + "/detokenize", json={"tokens": tokens}), 400)
    assert error["param"] == "tokens"
