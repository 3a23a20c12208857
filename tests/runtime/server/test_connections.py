"""Connections that lead nowhere end; those of patient clients do not."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.runtime.server.connections import Limits, Watch, allow_many_connections
from tests.runtime.server.harness import (
    PATIENCE,
    RunningServer,
    eventually,
    posted,
    read_until,
    running,
    toy_state,
)

TEXT = {"prompt": "Hello", "max_tokens": 20, "ignore_eos": True}


@dataclass
class Cycle:
    response_complete: bool = False


@dataclass(eq=False)
class Connection:
    """What the watch sees of uvicorn's protocols."""

    buffered: int = 0
    cycle: Cycle | None = None
    aborted: bool = False
    transport: Any = field(init=False)

    def __post_init__(self) -> None:
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def abort(self) -> None:
        self.aborted = True


LIMITS = Limits(silent=10, stalled=20)


@pytest.mark.parametrize(
    ("states", "ended"),
    [
        ([None] * 3, False),  # what is seen of it every five seconds
        ([None] * 4, True),
        (["done"] * 4, True),
        (["busy"] * 9, False),
        ([None, "busy", None, None], False),
        ([None, "busy", None, None, None, None], True),
        ([7] * 5, False),
        ([7] * 6, True),
        ([7, 7, 8, 8, 8], False),
        ([7, 7, 6, 5, 4, 3, 2, 1], False),
        ([7, 7, "busy", 7, 7, 7], False),
    ],
)
def test_who_gets_nowhere_for_too_long(states: list[Any], ended: bool) -> None:
    watch, connection = Watch(LIMITS), Connection()
    for number, state in enumerate(states):
        connection.cycle = None if state is None else Cycle(state == "done")
        connection.buffered = state if isinstance(state, int) else 0
        watch.look([connection], number * 5.0)
    assert connection.aborted is ended


def test_connections_are_judged_one_by_one_and_forgotten() -> None:
    watch, old, new = Watch(LIMITS), Connection(), Connection()
    watch.look([old], 0)
    watch.look([old, new], 9)
    assert watch.look([old, new], 11) == 1
    assert (old.aborted, new.aborted) == (True, False)
    assert watch.look([], 12) == 0
    assert watch._since == {}


@pytest.fixture
def server(folder: Path) -> Iterator[RunningServer]:
    limits = Limits(silent=2.0, stalled=1.0)
    state = toy_state(folder, runner={"pace": 0.02, "batch_size": 2})
    with running(state, limits=limits) as started:
        yield started


def connections(server: RunningServer) -> dict[int, Any]:
    """uvicorn's protocols by the port of the client."""
    found = tuple(server.server.server_state.connections)
    return {protocol.client[1]: protocol for protocol in found if protocol.client}


@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le"])
def test_half_open_connections_end(server: RunningServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    eventually(lambda: not connections(server))


def test_a_header_that_drips_ends_too(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Drip: ")
        port = connection.getsockname()[1]
        eventually(lambda: port in connections(server))

        def drip() -> bool:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"y")
            return port not in connections(server)

        eventually(drip)


def test_whoever_waits_for_us_may_wait(server: RunningServer) -> None:
    """An answer that takes longer than any limit, and one that streams slower than any."""
    server.runner.pace = 0.1
    for body in (TEXT, {**TEXT, "stream": True}):
        with posted(server, "/v1/completions", body) as connection:
            assert b'"length"' in read_until(connection, b'"length"')


def test_who_stops_reading_is_let_go_and_the_slot_comes_back(server: RunningServer) -> None:
    body = {**TEXT, "max_tokens": 200, "stream": True, "logprobs": 5, "return_tokens": True}
    with posted(server, "/v1/completions", body) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        port = connection.getsockname()[1]
        eventually(lambda: port in connections(server))
        transport = connections(server)[port].transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
        eventually(lambda: port not in connections(server))
        eventually(lambda: server.running() == 0)


def test_as_many_descriptors_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: told.append(limits))
    infinity = resource.RLIM_INFINITY
    for limits in ((1024, 4096), (4096, 4096), (1024, infinity), (infinity, infinity)):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, limits=limits: limits)
        allow_many_connections()
    assert told == [(4096, 4096), (65536, infinity)]
