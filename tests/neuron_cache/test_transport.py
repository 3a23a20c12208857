"""Requests over our own connections: as huggingface_hub's client would make them."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, get_token

from neuron_artifacts.model.hub_errors import TransportError, is_outage, retry_after
from neuron_artifacts.neuron_cache import CacheRequest, Hub, look_up, transport
from neuron_artifacts.neuron_cache.transport import (
    ClientTransport,
    DirectTransport,
    Transport,
    choose_transport,
    find_token,
)
from tests.model.fake_hub import Fault
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA

BOTH = [DirectTransport, ClientTransport]


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent; some paths answer otherwise."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({**dict(self.headers), "path": self.path}).encode()
        if self.path.startswith("/to/"):
            self.send_response(307)
            self.send_header("Location", self.path.removeprefix("/to/"))
            body = b""
        else:
            self.send_response(200)
        if self.path in ("/long", "/bomb"):
            body = bytes(1 << 20)
        if self.path in ("/zipped", "/bomb", "/torn", "/noise"):
            body = gzip.compress(body)
            body = {"/torn": body[:-9], "/noise": b"no gzip at all"}.get(self.path, body)
            self.send_header("Content-Encoding", "gzip")
        missing = 9 if self.path == "/short" else 0
        self.send_header("Content-Length", str(len(body) + missing))
        self.close_connection = bool(missing)
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/last":  # without a word, as an idle connection ends
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_zipped_answers_are_read(echo: str) -> None:
    assert DirectTransport(5).send("GET", f"{echo}/zipped").json()["path"] == "/zipped"


def test_parameters_are_quoted(echo: str) -> None:
    answer = DirectTransport(5).send("GET", f"{echo}/x%2Fy", params={"a": "b c&d"}).json()
    assert answer["path"] == "/x%2Fy?a=b+c%26d"


def test_the_token_follows_redirects_on_the_hub_alone(
    echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    transport = DirectTransport(5)
    assert transport.send("GET", f"{echo}/to//here").json()["Authorization"] == "Bearer hf_me"
    elsewhere = echo.replace("127.0.0.1", "localhost")
    answer = transport.send("GET", f"{echo}/to/{elsewhere}/there").json()
    assert answer["path"] == "/there"
    assert "Authorization" not in answer


def test_endless_redirects_end(echo: str) -> None:
    place = "/to/" * 20 + "/x"
    with pytest.raises(Exception, match="307"):
        DirectTransport(5).send("GET", f"{echo}{place}")


def test_a_connection_that_was_closed_meanwhile_is_made_again(echo: str) -> None:
    transport = DirectTransport(5)
    for _ in range(3):
        assert transport.send("GET", f"{echo}/last").json()["path"] == "/last"


def test_a_hub_that_is_gone_is_an_outage() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TransportError) as caught:
            DirectTransport(5).send("GET", address)
    assert is_outage(caught.value)
    assert retry_after(caught.value, 1.0) is None  # refused: asking again changes nothing


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "missing file": ("/org/open/resolve/main/none.json", "", {}),
    "missing revision": ("/org/open/resolve/none/config.json", "", {}),
    "missing repository": ("/org/none/resolve/main/config.json", "", {}),
    "private": ("/org/private/resolve/main/config.json", "", {}),
    "private, with a token": ("/org/private/resolve/main/config.json", "hf_you", {}),
    "gated": ("/org/gated/resolve/main/config.json", "", {}),
    "bad token": ("/org/open/resolve/main/config.json", "hf_bad", {}),
    "limited": ("/org/open/resolve/main/config.json", "", {"status": 429}),
    "broken": ("/org/open/resolve/main/config.json", "", {"status": 500}),
    "forbidden": ("/org/open/resolve/main/config.json", "", {"status": 403}),
    "cut short": ("/org/open/resolve/main/config.json", "", {"cut": 3}),
}


@pytest.mark.parametrize("name", CASES)
def test_failures_are_those_of_huggingface_hub(
    hub: CacheHub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, token, fault = CASES[name]
    content = {"config.json": b'{"a": 1}'}
    hub.commit("org/open", content)
    hub.commit("org/private", content, private=True)
    hub.commit("org/gated", content, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if fault:
        hub.faults.append(Fault("/resolve/", **fault))
    told = [_failure(kind(5), hub.url + path) for kind in BOTH]
    if name == "cut short":  # each library has its own word for that
        assert all(is_outage(error) for error in told)
        return
    assert type(told[0]) is type(told[1])
    assert is_outage(told[0]) == is_outage(told[1])
    assert retry_after(told[0], 1.0) == retry_after(told[1], 1.0)


def _failure(transport: Transport, url: str) -> Exception:
    with pytest.raises(Exception) as caught:
        transport.send("GET", url)
    return caught.value


@pytest.mark.parametrize("variable", ["https_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_is_left_to_huggingface_hub(variable: str) -> None:
    assert isinstance(choose_transport(5, {}), DirectTransport)
    assert isinstance(choose_transport(5, {variable: "http://proxy:8080"}), ClientTransport)


def test_a_lookup_over_huggingface_hubs_client(hub: CacheHub, connect: Callable[[], Hub]) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama")
    hub.commit(REPO, cache.files)
    client = connect()
    client._transport = ClientTransport(5)
    [outcome] = look_up(LLAMA, CacheRequest(), repos=[REPO], hub=client)
    assert outcome.status == "hit"


@pytest.mark.parametrize("named", ["hf_one", " hf_one\n", ""])
@pytest.mark.parametrize("kept", ["hf_two\n", None])
def test_the_token_is_huggingface_hubs(
    named: str, kept: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if named:
        monkeypatch.setenv("HF_TOKEN", named)
    if kept:
        (tmp_path / "token").write_text(kept)
    assert find_token() == get_token()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert find_token() is None


@pytest.mark.parametrize("path", ["/long", "/bomb"])
def test_an_answer_without_end_is_refused(
    echo: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1 << 16)
    with pytest.raises(ValueError, match="larger than"):
        DirectTransport(5).send("GET", f"{echo}{path}")


@pytest.mark.parametrize("path", ["/short", "/torn", "/noise"])
def test_a_damaged_answer_is_a_failed_request(echo: str, path: str) -> None:
    with pytest.raises(TransportError):
        DirectTransport(5).send("GET", f"{echo}{path}")
