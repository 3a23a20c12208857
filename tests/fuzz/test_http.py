"""Sound requests changed in places: never a 500, no slot lost, no other request harmed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.inputs import JSON, NASTY_TEXT, changed, damaged, fuzz
from tests.runtime.server.harness import RunningServer

TEXT = {"prompt": "Hello", "max_tokens": 2, "temperature": 0}
BODIES: dict[str, Any] = {
    "/v1/completions": {
        **TEXT, "n": 2, "stop": ["x"], "logprobs": 1, "logit_bias": {"3": 1.5}, "seed": 1,
        "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "echo": False,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "min_tokens": 1, "stream": False,
    },
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_tokens": 2, "logprobs": True, "top_logprobs": 2, "stream": False,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "chat_template_kwargs": {"a": 1}, "response_format": {"type": "text"},
    },
    "/tokenize": {"prompt": "Hello", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2, 3]},
}  # fmt: skip


def check(response: Any) -> None:
    """An answer, or a refusal that says why in the shape clients know."""
    assert response.status_code < 500, response.text[:500]
    if response.status_code >= 400:
        assert json.loads(response.text)["error"]["message"]


@fuzz
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_sound_requests_changed(server: RunningServer, path: str, data: st.DataObject) -> None:
    body = data.draw(changed(BODIES[path]) | JSON)
    if isinstance(body, dict) and data.draw(st.booleans()):
        body["stream"] = True
    content = json.dumps(body).encode()
    with httpx.Client(base_url=server.url, timeout=20) as client:
        check(client.post(path, content=content, headers={"Content-Type": "application/json"}))


@fuzz
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_damaged_requests(server: RunningServer, path: str, data: st.DataObject) -> None:
    content = data.draw(damaged(json.dumps(BODIES[path]).encode()))
    with httpx.Client(base_url=server.url, timeout=20) as client:
        check(client.post(path, content=content, headers={"Content-Type": "application/json"}))


@fuzz
@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]),
    st.sampled_from([*BODIES, "/health", "/metrics", "/v1/models", "/load", "/v1/models/"]),
    st.text(max_size=20) | NASTY_TEXT,
)
@example("GET", "/v1/models/", "%00%ff/../..")
@example("GET", "/v1/models/", "\x00")
def test_paths_and_methods(server: RunningServer, method: str, path: str, more: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in more.encode("utf-8", "surrogatepass"))
    with httpx.Client(base_url=server.url, timeout=20) as client:
        response = client.request(method, path + (quoted if path.endswith("/") else ""))
        assert response.status_code < 500
        response = client.request(method, f"{path.rstrip('/')}?{quoted}", headers={
            "x-request-id": repr(more)[:100].encode("ascii", "replace").decode(),
            "Authorization": "Bearer x", "Content-Type": "application/json; charset=?"
            if method == "PUT" else "application/json",
        })  # fmt: skip
        assert response.status_code < 500


@pytest.mark.parametrize(
    "arguments", ["[" * 100_000, "{" * 5000, "NaN", "9" * 5000, '{"a": "\\ud800"}', "\x00"]
)
def test_arguments_of_tool_calls(server: RunningServer, arguments: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [call]}
    with server.client() as client:
        for path in ("/v1/chat/completions", "/tokenize"):
            check(client.post(path, json={"messages": [message], "max_tokens": 1}))
