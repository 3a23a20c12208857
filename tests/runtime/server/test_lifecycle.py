"""From binding to the last answer: readiness, draining, signals, failure."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from neuron_artifacts.errors import ExitCode, ServeError
from neuron_artifacts.runtime.server.lifecycle import Server, Tls, serve
from tests.runtime.server.harness import (
    PATIENCE,
    RunningServer,
    eventually,
    posted,
    read_events,
    read_metrics,
    read_until,
    running,
    toy_state,
)

ROOT = Path(__file__).parents[3]
TEXT = {"prompt": "Hello", "max_tokens": 20, "ignore_eos": True}


def test_loading_until_started(folder: Path) -> None:
    state = toy_state(folder)
    assert state.phase == "loading"
    with running(state) as server:
        assert state.phase == "ready"
        server.stop()
        assert server.wait() is ExitCode.OK
    assert state.phase == "draining"


def test_draining_finishes_what_was_accepted(folder: Path) -> None:
    with running(toy_state(folder, runner={"batch_size": 1})) as server:
        server.runner.hold()
        with (
            posted(server, "/v1/completions", TEXT) as first,
            posted(server, "/v1/completions", {**TEXT, "stream": True}) as second,
            server.client() as other,
        ):
            eventually(lambda: (server.running(), server.waiting()) == (1, 1))
            assert other.get("/health").status_code == 200
            server.stop()
            eventually(lambda: other.get("/health").status_code == 503)
            assert other.get("/health").json() == {"status": "draining"}
            assert other.get("/ping").status_code == 503
            refused = other.post("/v1/completions", json=TEXT)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["code"] == "service_unavailable"
            # Scrapers and new connections are still served.
            assert httpx.get(server.url + "/metrics").status_code == 200
            server.runner.release()
            assert b'"completion_tokens":20' in read_until(first, b"prompt_tokens_details")
            assert b'"finish_reason":"length"' in read_until(second, b"data: [DONE]")
        assert server.wait() is ExitCode.OK
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")


@pytest.mark.parametrize("how", ["timeout", "second stop"])
def test_what_is_left_is_cut_off(folder: Path, how: str) -> None:
    timeout = 0.2 if how == "timeout" else PATIENCE
    state = toy_state(folder, runner={"pace": 0.1})
    with running(state, shutdown_timeout=timeout) as server:
        long = {**TEXT, "max_tokens": 250}
        with (
            posted(server, "/v1/completions", long) as whole,
            posted(server, "/v1/completions", {**long, "stream": True}) as streamed,
        ):
            eventually(lambda: server.running() == 2)
            read_until(streamed, b"data: ")
            server.stop()
            if how == "second stop":
                server.stop()
            answer = read_until(whole, b"shutting down")
            assert b"HTTP/1.1 503" in answer
            assert b"retry-after" in answer
            assert b"shutting down" in read_until(streamed, b"data: [DONE]")
        assert server.wait() is ExitCode.INTERRUPTED
    assert state.engine.stats().running == 0


def test_a_failed_engine_ends_the_server(folder: Path) -> None:
    """Requests are told, nothing of the inside shows, and ``run`` raises."""
    state = toy_state(folder, runner={"pace": 0.01})
    with running(state) as server:
        with posted(server, "/v1/completions", {**TEXT, "stream": True}) as streamed:
            read_until(streamed, b"data: ")
            server.runner.broken = True
            last = read_until(streamed, b"data: [DONE]")
        assert b'"type": "server_error"' in last
        assert b"/secret/path" not in last
        outcome = server.wait()
    assert isinstance(outcome, ServeError)
    assert "the device at /secret/path is gone" in outcome.message
    assert state.phase == "failed"


def test_a_port_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}: address already in use") as caught:
            serve(toy_state(folder), port=port)
    assert "--port" in (caught.value.hint or "")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.1", "a" * 300])
def test_a_host_that_cannot_be_had(folder: Path, host: str) -> None:
    with pytest.raises(ServeError) as caught:
        serve(toy_state(folder), host=host, port=0)
    assert "--host" in (caught.value.hint or "")


def test_certificates_that_are_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("not a certificate")
    for certificate in (tmp_path / "cert.pem", tmp_path / "missing.pem"):
        with pytest.raises(ServeError, match="certificate"):
            Server(toy_state(folder), tls=Tls(certificate))


@contextlib.contextmanager
def process(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "tests.runtime.server.toy_server", str(folder), *options]
    started = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        yield started, json.loads(started.stdout.readline())
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(folder: Path, sent: signal.Signals) -> None:
    with process(folder, "--pace", "0.02") as (server, where):
        url = f"http://{where['host']}:{where['port']}"
        body = {**TEXT, "max_tokens": 60, "stream": True}
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=PATIENCE) as stream:
            pieces = stream.iter_text()
            text = next(pieces)
            server.send_signal(sent)
            eventually(lambda: httpx.get(url + "/health").status_code == 503)
            assert httpx.post(url + "/v1/completions", json=TEXT).status_code == 503
            text += "".join(pieces)
        events = read_events(text)
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert server.wait(PATIENCE) == 0
        assert server.communicate()[1] == ""


def test_a_second_signal_cuts_off(folder: Path) -> None:
    with process(folder, "--pace", "0.1") as (server, where):
        url = f"http://{where['host']}:{where['port']}"
        body = {**TEXT, "max_tokens": 250, "stream": True}
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=PATIENCE) as stream:
            pieces = stream.iter_text()
            text = next(pieces)
            server.terminate()
            eventually(lambda: httpx.get(url + "/health").status_code == 503)
            server.terminate()
            text += "".join(pieces)
        assert read_events(text)[-1]["error"]["code"] == "service_unavailable"
        assert server.wait(PATIENCE) == ExitCode.INTERRUPTED
        assert server.communicate()[1] == ""


def test_an_idle_process_ends_at_once(folder: Path) -> None:
    with process(folder, "--shutdown-timeout", "600") as (server, _):
        server.terminate()
        assert server.wait(PATIENCE) == 0


def test_a_unix_socket(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with process(folder, "--uds", str(path)) as (server, where):
        assert where == {"host": str(path), "port": 0}
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://server/health").status_code == 200
        with pytest.raises(ServeError, match="listening there already"):
            serve(toy_state(folder), uds=path)
        server.kill()
        server.wait(PATIENCE)
    assert path.exists()
    # What a killed server left does not stop the next one.
    with process(folder, "--uds", str(path)) as (server, _):
        server.terminate()
        assert server.wait(PATIENCE) == 0
    assert not path.exists()
    path.write_text("a file")
    with pytest.raises(ServeError, match="a file is there"):
        serve(toy_state(folder), uds=path)
    assert path.read_text() == "a file"


def test_many_clients_while_draining(folder: Path) -> None:
    """Everything that was accepted is answered in full, the rest is refused by status."""
    state = toy_state(folder, runner={"pace": 0.01})
    statuses: list[int] = []

    def ask(server: RunningServer) -> None:
        with server.client() as client:
            while statuses.count(503) < 8:
                try:
                    response = client.post("/v1/completions", json=TEXT)
                except httpx.TransportError:
                    return  # sent while the server was closing the connection
                if response.status_code == 200:
                    assert response.json()["usage"]["completion_tokens"] == 20
                statuses.append(response.status_code)

    with running(state) as server, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, server) for _ in range(8)]
        eventually(lambda: len(statuses) > 8)
        server.stop()
        for future in asking:
            future.result(PATIENCE)
        assert server.wait() is ExitCode.OK
    assert set(statuses) == {200, 503}
    metrics = read_metrics(state.metrics.render()[0].decode())
    name = "vllm:request_success_total{finished_reason=length}"
    assert metrics[name] == statuses.count(200)
