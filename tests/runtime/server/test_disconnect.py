"""A client that leaves gives its slots back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.harness import (
    RunningServer,
    eventually,
    posted,
    read_until,
    running,
    toy_state,
)

LONG = {"model": "toy", "prompt": "Hello", "max_tokens": 250, "ignore_eos": True}
ABORTED = "vllm:request_success_total{finished_reason=abort}"


@pytest.fixture
def server(folder: Path) -> Iterator[RunningServer]:
    with running(toy_state(folder, runner={"batch_size": 2})) as started:
        yield started


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_a_running_request(server: RunningServer, stream: bool, n: int) -> None:
    server.runner.pace = 0.01
    with posted(server, "/v1/completions", {**LONG, "stream": stream, "n": n}):
        eventually(lambda: server.running() == n)
        assert server.load() == 1
    eventually(lambda: server.running() == 0)
    eventually(lambda: server.load() == 0)
    metrics = server.metrics()
    assert metrics[ABORTED] == n
    assert metrics["vllm:generation_tokens_total"] < 250 * n
    assert metrics["vllm:kv_cache_usage_perc"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_waiting_request(server: RunningServer, stream: bool) -> None:
    """It leaves the queue, and its prompt is never read."""
    server.runner.hold()
    with posted(server, "/v1/completions", {**LONG, "n": 2, "max_tokens": 5}) as first:
        eventually(lambda: server.running() == 2)
        with posted(
            server,
            "/v1/completions",
            {**LONG, "prompt": [5] * 50, "max_tokens": 99, "stream": stream},
        ):
            eventually(lambda: server.waiting() == 1)
        eventually(lambda: server.load() == 1)
        server.runner.release()
        read_until(first, b'"length"')
    eventually(lambda: server.waiting() == 0)
    metrics = server.metrics()
    assert metrics[ABORTED] == 1
    assert metrics["vllm:prompt_tokens_total"] == len(server.state.tokenizer.encode("Hello"))


def test_only_the_one_who_left(server: RunningServer) -> None:
    server.runner.pace = 0.005
    with posted(server, "/v1/completions", {**LONG, "max_tokens": 60}) as stays:
        with posted(server, "/v1/completions", {**LONG, "stream": True}):
            eventually(lambda: server.running() == 2)
        eventually(lambda: server.running() == 1)
        assert b'"completion_tokens":60' in read_until(stays, b'"usage":{')


def test_half_a_request(server: RunningServer) -> None:
    body: dict[str, Any] = dict(LONG)
    with posted(server, "/v1/completions", body) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    eventually(lambda: server.load() == 0)
    eventually(lambda: server.running() == 0)
