"""The small routes, request ids, and a full queue."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from neuron_artifacts import __version__
from neuron_artifacts.runtime.server.prompts import SHORT_CHARS
from neuron_artifacts.runtime.server.state import Limits
from tests.runtime.server.harness import (
    PATIENCE,
    RunningServer,
    eventually,
    posted,
    read_until,
    running,
    toy_state,
)

TEXT = {"prompt": "Hello", "max_tokens": 2}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")]
)
def test_health(server: RunningServer, method: str, path: str) -> None:
    response = httpx.request(method, server.url + path)
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_version(server: RunningServer) -> None:
    assert httpx.get(server.url + "/version").json() == {"version": __version__}


def test_models(folder: Path) -> None:
    with running(toy_state(folder, model_names=("org/toy", "alias"))) as server:
        models = httpx.get(server.url + "/v1/models").json()
        assert models["object"] == "list"
        first, second = models["data"]
        assert (first["id"], first["parent"]) == ("org/toy", None)
        assert (second["id"], second["parent"]) == ("alias", "org/toy")
        assert {first["root"], second["root"]} == {str(folder)}
        assert {first["max_model_len"], second["max_model_len"]} == {256}
        assert httpx.get(server.url + "/v1/models/org/toy").json() == first
        for asked, told in (("alias", "alias"), ("org/toy", "org/toy"), (None, "org/toy")):
            response = httpx.post(server.url + "/v1/completions", json={**TEXT, "model": asked})
            assert response.json()["model"] == told


def test_tokenize(server: RunningServer) -> None:
    text = "Hello world <|user|>"
    tokenizer = server.state.tokenizer
    ids = tokenizer.encode(text)
    body = httpx.post(server.url + "/tokenize", json={"prompt": text}).json()
    assert body == {"count": len(ids), "max_model_len": 256, "tokens": ids, "token_strs": None}
    fields = {"prompt": text, "add_special_tokens": False, "return_token_strs": True}
    body = httpx.post(server.url + "/tokenize", json=fields).json()
    assert body["tokens"] == ids[1:]
    assert body["token_strs"] == [tokenizer.id_to_token(i) for i in ids[1:]]
    back = httpx.post(server.url + "/detokenize", json={"tokens": ids[1:]}).json()
    assert back == {"prompt": text}


def test_tokenize_messages(server: RunningServer) -> None:
    """Counts what a chat completion of the same messages is charged for."""
    messages = [{"role": "user", "content": "Hello"}]
    tokens = httpx.post(server.url + "/tokenize", json={"messages": messages}).json()
    chat = httpx.post(
        server.url + "/v1/chat/completions", json={"messages": messages, "max_tokens": 1}
    ).json()
    assert tokens["count"] == chat["usage"]["prompt_tokens"]
    text = server.state.tokenizer.decode(tokens["tokens"], skip_special_tokens=False)
    assert text == "<s><|user|>Hello</s><|assistant|>"


def test_openapi(server: RunningServer) -> None:
    document = httpx.get(server.url + "/openapi.json").json()
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]
    reference = body["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    assert {"prompt", "ignore_eos", "stream_options"} <= set(schema["properties"])
    assert "#/$defs" not in str(document)


@pytest.mark.parametrize("offered", ["abc-123", "a", "x" * 128, "0af7651916cd43dd:1/2"])
def test_request_ids_are_echoed(server: RunningServer, offered: str) -> None:
    response = httpx.post(
        server.url + "/v1/completions", json=TEXT, headers={"x-request-id": offered}
    )
    assert response.headers["x-request-id"] == offered
    assert response.json()["id"] == f"cmpl-{offered}"


@pytest.mark.parametrize("offered", [b"", b"x" * 129, b"a b", b"<script>", b"\xe4", b"a\tb"])
def test_unfit_request_ids_are_replaced(server: RunningServer, offered: bytes) -> None:
    response = httpx.get(server.url + "/health", headers={b"x-request-id": offered})
    found = response.headers["x-request-id"]
    assert len(found) == 32
    assert found.isalnum()


def test_errors_have_a_request_id_too(server: RunningServer) -> None:
    response = httpx.get(server.url + "/nowhere", headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"


def test_the_same_request_id_twice_at_a_time(folder: Path) -> None:
    with running(toy_state(folder, runner={"pace": 0.02})) as server, server.client() as client:
        headers = {"x-request-id": "same"}
        body = {"prompt": "Hello", "max_tokens": 10, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body, headers=headers) as first:
            second = client.post("/v1/completions", json=TEXT, headers=headers)
            assert second.status_code == 200
            assert first.read().endswith(b"data: [DONE]\n\n")


def test_a_full_queue(folder: Path) -> None:
    state = toy_state(folder, runner={"batch_size": 1}, max_waiting=1)
    with running(state) as server:
        server.runner.hold()
        with posted(server, "/v1/completions", TEXT):
            eventually(lambda: server.running() == 1)
            with posted(server, "/v1/completions", TEXT):
                eventually(lambda: server.waiting() == 1)
                response = httpx.post(server.url + "/v1/completions", json=TEXT)
                assert response.status_code == 429
                assert int(response.headers["retry-after"]) > 0
                assert response.json()["error"]["code"] == "rate_limit_exceeded"
                assert httpx.get(server.url + "/health").status_code == 200
                server.runner.release()
                eventually(lambda: server.load() == 0)
        assert httpx.post(server.url + "/v1/completions", json=TEXT).status_code == 200


def test_long_prompts_wait_for_each_other_only(folder: Path) -> None:
    """Short ones and probes are answered while a long one is being tokenized."""
    state = toy_state(folder)
    free = threading.Event()
    with running(state) as server, ThreadPoolExecutor(1) as pool:
        blocker = state.tokenizing.submit(free.wait, PATIENCE)
        long = {"prompt": "Hello " * (SHORT_CHARS // 6 + 1), "max_tokens": 1}
        answer = pool.submit(httpx.post, server.url + "/v1/completions", json=long)
        eventually(lambda: server.load() == 1)
        assert httpx.get(server.url + "/health").status_code == 200
        assert httpx.post(server.url + "/v1/completions", json=TEXT).status_code == 200
        assert not answer.done()
        free.set()
        assert blocker.result(PATIENCE)
        assert answer.result(PATIENCE).json()["error"]["code"] == "context_length_exceeded"


def test_a_body_that_does_not_arrive(folder: Path) -> None:
    with running(toy_state(folder, limits=Limits(body_seconds=0.1))) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            connection.sendall(head + b"Content-Type: application/json\r\n\r\n{")
            assert b"408" in read_until(connection, b"did not arrive")
            while connection.recv(1 << 16):
                pass  # and the connection is closed, as half a request is on it
        assert server.load() == 0
