"""Real servers for tests: uvicorn on a free loopback port, in a thread of this process.

::

    with running(toy_state(tmp_path)) as server:
        httpx.get(server.url + "/health")

``running`` takes any :class:`ServerState`, so a test can serve a compiled artifact as well:
``running(make_state(load_artifact(directory)))``.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from neuron_artifacts.backends.runner import Logits
from neuron_artifacts.errors import ExitCode
from neuron_artifacts.runtime.engine import Engine
from neuron_artifacts.runtime.llm import LLM
from neuron_artifacts.runtime.outputs import RequestOutput
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.server.lifecycle import Server
from neuron_artifacts.runtime.server.metrics import Metrics
from neuron_artifacts.runtime.server.sockets import bind_tcp
from neuron_artifacts.runtime.server.state import ServerState
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.runtime.toy_runner import ToyRunner
from tests.runtime.toy_tokenizers import byte_level, save

MODEL = "toy"
PATIENCE = 20.0
"""Seconds after which something that should happen is taken not to."""


class HeldRunner(ToyRunner):
    """A toy runner that a test can hold before its next step, slow down, or break."""

    def __init__(self, *, pace: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.pace = pace
        self.broken = False
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def prefill(
        self, slot: int, tokens: Sequence[int], start: int, *, all_logits: bool = False
    ) -> Logits:
        self._await_turn()
        return super().prefill(slot, tokens, start, all_logits=all_logits)

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        self._await_turn()
        return super().decode(slots, tokens, positions)

    def _await_turn(self) -> None:
        self._free.wait(PATIENCE)
        time.sleep(self.pace)
        if self.broken:
            raise RuntimeError("the device at /secret/path is gone")


def toy_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(save(folder, byte_level()))


def toy_runner(tokenizer: Tokenizer, **options: Any) -> HeldRunner:
    sizes: dict[str, Any] = {
        "batch_size": 4, "seq_len": 256, "max_context_length": 192, "buckets": (16, 64),
        "vocab_size": tokenizer.vocab_size,
    }  # fmt: skip
    return HeldRunner(**{**sizes, **options})


def toy_state(
    folder: Path, *, runner: dict[str, Any] | None = None, max_waiting: int = 1024, **fields: Any
) -> ServerState:
    """The state of a server over a toy model; ``fields`` replace those of ServerState."""
    tokenizer = toy_tokenizer(folder)
    toy = toy_runner(tokenizer, **(runner or {}))
    metrics = Metrics(MODEL, seconds={"verify": 0.25, "load": 0.5, "warm-up": 0.125})
    engine = Engine(toy, tokenizer, max_waiting=max_waiting, on_step=metrics.record_step)
    metrics.observe_engine(engine.stats, toy)
    own: dict[str, Any] = {
        "engine": engine, "tokenizer": tokenizer, "model_names": (MODEL,),
        "model_root": str(folder), "max_model_len": toy.seq_len, "vocab_size": toy.vocab_size,
        "metrics": metrics, "fingerprint": "na-toy",
    }  # fmt: skip
    return ServerState(**{**own, **fields})


def reference(state: ServerState, prompt: str | list[int], params: SamplingParams) -> RequestOutput:
    """What the engine gives for one request alone, without a server."""
    runner = toy_runner(state.tokenizer)
    with LLM(runner, state.tokenizer) as llm:
        (output,) = llm.generate([prompt], params)
    return output


@dataclass
class RunningServer:
    """A server that answers; ``stop`` begins to drain it, ``wait`` gives what it returned."""

    url: str
    state: ServerState
    server: Server
    thread: threading.Thread
    outcome: list[ExitCode | BaseException]

    @property
    def runner(self) -> HeldRunner:
        return self.state.engine._runner  # type: ignore[return-value]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        self.server.stop()

    def wait(self) -> ExitCode | BaseException:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server did not end"
        return self.outcome[0]

    def load(self) -> int:
        return int(httpx.get(self.url + "/load").json()["server_load"])

    def metrics(self) -> dict[str, float]:
        """Samples by name, with labels other than model and engine in the name."""
        return read_metrics(httpx.get(self.url + "/metrics").text)

    def running(self) -> int:
        return int(self.metrics()["vllm:num_requests_running"])

    def waiting(self) -> int:
        return int(self.metrics()["vllm:num_requests_waiting"])


@contextlib.contextmanager
def running(state: ServerState, **options: Any) -> Iterator[RunningServer]:
    """Serve ``state`` until the block ends; ``options`` go to :class:`Server`."""
    listeners = bind_tcp("127.0.0.1", 0)
    ready = threading.Event()
    outcome: list[ExitCode | BaseException] = []
    server = Server(state, **options)

    def run() -> None:
        try:
            outcome.append(server.run(listeners, ready.set))
        except BaseException as error:  # noqa: BLE001 - handed to the test
            outcome.append(error)
        ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE), "the server did not become ready"
    scheme = "https" if options.get("tls") else "http"
    url = f"{scheme}://127.0.0.1:{listeners[0].getsockname()[1]}"
    running_server = RunningServer(url, state, server, thread, outcome)
    try:
        yield running_server
    finally:
        if isinstance(state.engine._runner, HeldRunner):
            state.engine._runner.release()
        server.stop()
        server.stop()
        thread.join(PATIENCE)


@contextlib.contextmanager
def posted(server: RunningServer, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A socket on which a request was sent and nothing read yet; closed at the end."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(head.encode() + data)
        yield connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """What arrives up to and with ``mark``, and whatever came along with it."""
    received = bytearray()
    while mark not in received:
        data = connection.recv(1 << 20)
        assert data, f"closed before {mark!r}: {bytes(received[-500:])!r}"
        received += data
    return bytes(received)


def read_events(text: str) -> list[Any]:
    """The JSON of each server-sent event; the last one must be ``[DONE]`` and is left out."""
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``; what it depends on happens on other threads."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def read_metrics(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            kept = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            labels = "{" + ",".join(f"{k}={v}" for k, v in kept.items()) + "}" if kept else ""
            found[sample.name + labels] = sample.value
    return found
