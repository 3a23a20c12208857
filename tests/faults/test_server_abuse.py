"""A server that is abused: memory bounded, others unaffected, every slot given back.

The server is a process of its own with a toy model, so its memory and descriptors can be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import RUNS, Record
from tests.runtime.server.harness import PATIENCE, read_metrics
from tests.runtime.toy_tokenizers import byte_level, save

ROOT = Path(__file__).parents[2]
CONNECTIONS, QUEUED, AT_ONCE, WAITING = 1000, 10_000, 400, 64
GROWTH = 96 << 20
"""Bytes a server may grow by under any of this: its own buffers and Python's arenas."""
TEXT: dict[str, Any] = {"prompt": "Hello", "max_tokens": 4, "ignore_eos": True, "temperature": 0}


@dataclass
class Victim:
    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def answers(self) -> bool:
        response = httpx.post(self.url + "/v1/completions", json=TEXT, timeout=PATIENCE)
        return response.status_code == 200 and bool(response.json()["choices"][0]["text"])

    def metrics(self) -> dict[str, float]:
        return read_metrics(httpx.get(self.url + "/metrics", timeout=PATIENCE).text)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("toy")
    save(folder, byte_level())
    command = [sys.executable, "-m", "tests.runtime.server.toy_server", str(folder)]
    process = subprocess.Popen(
        [*command, "--max-waiting", str(WAITING)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    victim = Victim(json.loads(process.stdout.readline())["port"], process)
    for _ in range(20):
        assert victim.answers()
    yield victim
    process.terminate()
    assert process.wait(PATIENCE) == 0


@pytest.fixture
def unharmed(victim: Victim) -> Iterator[Victim]:
    """Afterwards it answers, holds no slot, and has not grown beyond bounds."""
    memory, descriptors = victim.memory(), victim.descriptors()
    yield victim
    assert victim.answers()
    _eventually(lambda: _idle(victim))
    _eventually(lambda: victim.descriptors() <= descriptors + 8)
    assert victim.memory() - memory < GROWTH


def _request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _idle(victim: Victim) -> bool:
    metrics = victim.metrics()
    return metrics["vllm:num_requests_running"] == metrics["vllm:num_requests_waiting"] == 0


def _eventually(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def test_a_thousand_half_open_connections(unharmed: Victim, record: Record) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS):
            connection = stack.enter_context(unharmed.connect())
            if number % 2:
                connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
        assert unharmed.answers()
    record(f"{CONNECTIONS} half-open connections", "others answered, descriptors returned")


def test_clients_that_vanish_give_their_slots_back(unharmed: Victim, record: Record) -> None:
    request = _request({**TEXT, "max_tokens": 200, "stream": True})
    for _ in range(50 * RUNS):
        connection = unharmed.connect()
        connection.sendall(request)
        connection.recv(10)
        reset = struct.pack("ii", 1, 0)  # close with RST, as a machine that lost power would
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        connection.close()
        record("client reset while streaming", "slot returned")


def test_readers_that_never_read(unharmed: Victim, record: Record) -> None:
    request = _request({**TEXT, "max_tokens": 200, "stream": True})
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            connection = stack.enter_context(unharmed.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.sendall(request)
        assert unharmed.answers()
    record("32 readers that never read", "others answered, memory bounded")


@pytest.mark.slow
def test_more_requests_than_may_wait(unharmed: Victim, record: Record) -> None:
    before = unharmed.metrics()
    counts = asyncio.run(_flood(unharmed.port, QUEUED))
    assert sum(counts.values()) == QUEUED
    assert set(counts) <= {200, 429}
    assert counts[200] > 0
    record(f"{QUEUED} requests, of which {WAITING} may wait", "200, or 429 with Retry-After")
    _eventually(lambda: _idle(unharmed))
    after = unharmed.metrics()
    name = "vllm:request_success_total{finished_reason=length}"
    assert after[name] - before.get(name, 0) == counts[200], "the server counted what clients saw"
    tokens = "vllm:generation_tokens_total"
    assert after[tokens] - before[tokens] == counts[200] * TEXT["max_tokens"]


async def _flood(port: int, total: int) -> Counter[int]:
    request = _request(TEXT)
    counts: Counter[int] = Counter()
    left = iter(range(total))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            lowered = answer.lower()
            length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            assert status != 429 or b"retry-after:" in lowered
            counts[status] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return counts


def test_a_body_without_end(unharmed: Victim, record: Record) -> None:
    """300 MB in chunks, with no length announced."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with unharmed.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 300 << 20:
                connection.sendall(chunk)
                sent += len(chunk)
        with contextlib.suppress(ConnectionError):
            assert b" 413 " in connection.recv(1 << 16)
    assert sent < 300 << 20
    record("a body of 300 MB", "413, memory bounded")


@pytest.mark.parametrize(
    ("what", "body", "statuses"),
    [
        ("a prompt of a million tokens", {**TEXT, "prompt": [1] * 1_000_000}, {400}),
        ("a prompt of 5 MB", {**TEXT, "prompt": "x" * (5 << 20)}, {400}),
        ("absurd n", {**TEXT, "n": 10**9}, {400}),
        ("absurd logprobs", {**TEXT, "logprobs": 10**9}, {400}),
        ("absurd max_tokens", {**TEXT, "max_tokens": 10**12}, {400}),
        ("100,000 stop strings", {**TEXT, "stop": ["x"] * 100_000}, {400}),
        ("100,000 prompts", {**TEXT, "prompt": ["x"] * 100_000}, {400}),
    ],
)
def test_absurd_requests(
    what: str, body: dict[str, Any], statuses: set[int], unharmed: Victim, record: Record
) -> None:
    response = httpx.post(unharmed.url + "/v1/completions", json=body, timeout=PATIENCE)
    assert response.status_code in statuses, response.text[:300]
    assert response.json()["error"]["message"]
    record(what, f"{response.status_code} with the reason")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b'"' + b"\\u0041" * 10**6])
def test_deep_and_broken_json(content: bytes, unharmed: Victim, record: Record) -> None:
    response = httpx.post(
        unharmed.url + "/v1/completions", content=content, timeout=PATIENCE,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert response.status_code == 400
    record("deep or broken JSON", "400")


def test_a_flood_of_headers(unharmed: Victim, record: Record) -> None:
    with unharmed.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                sent += connection.send(b"X-Flood: " + b"y" * 8000 + b"\r\n")
            connection.recv(1 << 16)
    assert sent < 64 << 20
    record("a flood of headers", "the connection is ended, memory bounded")
