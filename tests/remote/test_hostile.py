"""Stores of a stranger: nothing they say leads elsewhere, runs without end or ends in a bug."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts._files import DigestCache, hash_file
from neuron_artifacts.artifact import MANIFEST_NAME
from neuron_artifacts.errors import CorruptError, MissError, NeuronArtifactsError, RemoteError
from neuron_artifacts.key import digest_of
from neuron_artifacts.remote import find_key, http, oci, open_url, pull_artifact, push_artifact
from neuron_artifacts.remote.incoming import Incoming
from neuron_artifacts.remote.manifest import RemoteManifest
from neuron_artifacts.remote.port import take
from tests.remote.samples import local_store, make_artifact
from tests.remote.serving import HttpServing, QuietHandler
from tests.remote.small_registry import SmallRegistry
from tests.remote.test_credentials import PASSWORD, _basic, write_config

Answer = tuple[int, dict[str, str], "bytes | Iterator[bytes]"]


class Scripted(HttpServing):
    """Answers what a test says, and keeps what it was asked: path, and headers in lower case."""

    def __init__(self, answer: Callable[[str, Mapping[str, str]], Answer]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(_Handler)


class _Handler(QuietHandler):
    def do_GET(self) -> None:
        script: Scripted = self.server.owner  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.asked.append((self.path, headers))
        status, answered, body = script.answer(self.path, headers)
        whole = body if isinstance(body, bytes) else None
        self.send_response(status)
        for name, value in {"Content-Length": str(len(whole or b"")), **answered}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for piece in [whole] if whole is not None else body:
                self.wfile.write(piece)  # type: ignore[arg-type]
        except OSError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET


def store_of(server: HttpServing) -> Any:
    return open_url(f"oci://{server.host}/r")


def test_no_password_goes_where_a_redirect_leads(tmp_path: Path) -> None:
    """Neither with the request, nor because the one there asks for it."""
    asking = {"WWW-Authenticate": 'Bearer realm="REALM/token",service="x"'}

    def ask(_path: str, _headers: Mapping[str, str]) -> Answer:
        realm = asking["WWW-Authenticate"].replace("REALM", thief.url)
        return 401, {"WWW-Authenticate": realm}, b"{}"

    with SmallRegistry(password=PASSWORD) as registry, Scripted(ask) as thief:
        write_config(tmp_path / "home/.docker", auths={registry.host: _basic("user", PASSWORD)})
        artifact = make_artifact(tmp_path / "a", shards=1)
        push_artifact(store_of(registry), artifact)
        registry.faults += [("blobs/sha256", 307, {"Location": f"{thief.url}/blob"})] * 99
        with pytest.raises(RemoteError, match="refuses access"):
            pull_artifact(store_of(registry), artifact.name, local_store(tmp_path / "b"))
        assert {path for path, _ in thief.asked} == {"/blob"}
        assert not [headers for _, headers in thief.asked if "authorization" in headers]


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher"])
def test_a_redirect_leads_to_no_other_kind_of_place(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "f").write_text("{}")
    place = f"{scheme}://{tmp_path}/f" if scheme == "file" else f"{scheme}://127.0.0.1:1/f"
    with Scripted(lambda *_: (302, {"Location": place}, b"")) as server:
        with pytest.raises(RemoteError):
            store_of(server).read_manifest("0" * 64)
        assert len(server.asked) == 1


DEEP = b"[" * 100_000
MALFORMED: dict[str, Answer] = {
    "no json": (200, {}, b"<html>"),
    "deep": (200, {}, b'{"tags": ' + DEEP),
    "list": (200, {}, b"[1]"),
    "null": (200, {}, b"null"),
    "tags": (200, {}, b'{"tags": 7}'),
    "names": (200, {}, b'{"tags": {"a": 1}}'),
    "link": (200, {"Link": '<http://[x>; rel="next"'}, b'{"tags": []}'),
    "elsewhere": (302, {"Location": "http://[x/"}, b""),
    "status": (999, {}, b""),
    "length": (200, {"Content-Length": "many"}, b"{"),
    "pause": (503, {"Retry-After": "\xb2"}, b""),
    "realm": (401, {"WWW-Authenticate": 'Bearer realm="https://[x"'}, b""),
    "challenge": (401, {"WWW-Authenticate": "Bearer"}, b""),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("ask", ["keys", "manifest", "signatures", "sizes", "push"])
def test_malformed_answers_are_trouble_and_no_bug(tmp_path: Path, name: str, ask: str) -> None:
    with Scripted(lambda *_: MALFORMED[name]) as server:
        store = store_of(server)
        with suppress(RemoteError, CorruptError, MissError):
            if ask == "keys":
                assert store.keys() == []
            elif ask == "manifest":
                store.read_manifest("0" * 64)
            elif ask == "signatures":
                assert store.signatures("0" * 64) == []
            elif ask == "sizes":
                store.sizes(["0" * 64])
            else:
                push_artifact(store, make_artifact(tmp_path / "a", shards=1))


def test_pages_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page that leads to itself, and ever new ones."""
    monkeypatch.setattr(oci, "_MOST_PAGES", 7)
    more = {"Link": '</v2/r/tags/list?n=1000>; rel="next"'}
    with Scripted(lambda *_: (200, more, b'{"tags": []}')) as server:
        with pytest.raises(MissError):
            find_key("abcd", store_of(server))
        assert len(server.asked) == 7
    monkeypatch.setattr(oci, "MOST_KEYS", 5)
    tags = json.dumps({"tags": ["0" * 64, "1" * 64]}).encode()
    with Scripted(lambda *_: (200, more, tags)) as server:
        with pytest.raises(RemoteError, match="without end"):
            store_of(server).keys()
        assert len(server.asked) == 3


def fetch(server: HttpServing, place: Path, data: bytes) -> bytes:
    (place / "f").write_bytes(data)
    digest, store = hash_file(place / "f"), store_of(server)
    with Incoming(place, DigestCache(place / "digests")) as incoming:
        return incoming.fetch(
            digest, len(data), lambda start: store.read(digest, len(data), start), "there",
            lambda _: None,
        ).read_bytes()  # fmt: skip


def test_a_store_that_falls_silent_is_left_and_asked_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.5)
    data = os.urandom(100_000)
    length = {"Content-Length": str(len(data))}

    def stall() -> Iterator[bytes]:
        yield data[:70_000]
        while len(server.asked) < 2:
            time.sleep(0.01)

    def answer(_path: str, headers: Mapping[str, str]) -> Answer:
        if "range" not in headers:
            return 200, length, stall()
        start = int(headers["range"].removeprefix("bytes=").partition("-")[0])
        return 206, {}, data[start:]

    with Scripted(answer) as server:
        assert fetch(server, tmp_path, data) == data
    ranges = [headers.get("range") for _, headers in server.asked]
    assert ranges == [None, "bytes=70000-99999"]


@pytest.mark.parametrize("extra", [{}, {"Content-Range": "bytes 0-99/100"}])
def test_a_store_that_ignores_ranges_gives_the_rest_all_the_same(
    tmp_path: Path, extra: dict[str, str]
) -> None:
    data = os.urandom(100)
    (tmp_path / "g").write_bytes(data)
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / hash_file(tmp_path / "g")).write_bytes(data[:40])
    with Scripted(lambda *_: (200, extra, data)) as server:
        assert fetch(server, tmp_path, data) == data
        assert server.asked[0][1]["range"] == "bytes=40-99"


@pytest.mark.parametrize(
    "sent",
    [
        lambda data: (200, {}, data[::-1]),
        lambda data: (200, {}, data + b"more"),
        lambda data: (200, {"Content-Encoding": "gzip"}, gzip.compress(data)),
        lambda data: (200, {"Content-Length": str(1 << 40)}, itertools.repeat(bytes(1 << 16))),
    ],
    ids=["other", "longer", "packed", "endless"],
)
def test_other_bytes_do_not_come_in(tmp_path: Path, sent: Callable[[bytes], Answer]) -> None:
    data = os.urandom(100)
    with Scripted(lambda *_: sent(data)) as server:
        with pytest.raises((CorruptError, RemoteError)):
            fetch(server, tmp_path, data)
    kept = [path for path in (tmp_path / ".incoming").glob("*") if path.read_bytes() == data]
    assert kept == []
    assert all(path.stat().st_size <= 100 for path in (tmp_path / ".incoming").glob("*"))


def test_what_was_announced_small_is_not_read_without_end() -> None:
    with pytest.raises(CorruptError, match="more than the 10 bytes"):
        take(itertools.repeat(b"x"), 10, "it")
    assert take(iter((b"xy", b"z")), 3, "it") == b"xyz"


def _publish(remote: Path, artifact: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Put the artifact's manifest there, changed, and with a digest of its own that holds."""
    body = json.loads((artifact / MANIFEST_NAME).read_bytes())
    body.pop("manifest_sha256")
    change(body)
    body["manifest_sha256"] = digest_of(body)
    data = json.dumps(body).encode() + b"\n"
    path = remote / "artifacts" / f"{artifact.name}.json"
    path.write_bytes(RemoteManifest(data).dump())
    return artifact.name


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["files"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        _set("sha256", "../../../outside"),
        _set("sha256", "../outside"),
        _set("sha256", "*"),
        _set("sha256", "A" * 64),
        _set("sha256", ""),
        _set("path", "../outside"),
        _set("path", "/outside"),
        _set("size", -1),
        _set("size", 1 << 80),
        _set("size", 10**30),
        _set("size", True),
        lambda body: body["files"].append(body["files"][0]),
    ],
)
def test_no_manifest_leads_out_of_the_store(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    artifact, remote = make_artifact(tmp_path / "a", shards=1), tmp_path / "remote"
    push_artifact(open_url(f"file://{remote}"), artifact)
    (remote / "outside").write_bytes(b"x")
    (remote / "cas" / "outside").write_bytes(b"x")
    key = _publish(remote, artifact, change)
    (tmp_path / "deep/er/b").mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if tmp_path / "deep/er/b" not in path.parents}
    with pytest.raises(NeuronArtifactsError):
        pull_artifact(open_url(f"file://{remote}"), key, local_store(tmp_path / "deep/er/b"))
    after = {path for path in tmp_path.rglob("*") if tmp_path / "deep/er/b" not in path.parents}
    assert after == before
    assert local_store(tmp_path / "deep/er/b").directories() == []


def test_a_pipe_in_a_shared_folder_keeps_nobody_waiting(tmp_path: Path) -> None:
    artifact, remote = make_artifact(tmp_path / "a", shards=1), tmp_path / "remote"
    store = open_url(f"file://{remote}")
    push_artifact(store, artifact)
    blob = remote / "cas/sha256" / hash_file(artifact / "weights/0.safetensors")
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(MissError):
        pull_artifact(store, artifact.name, local_store(tmp_path / "b"))
    push_artifact(store, artifact)
    assert blob.is_file()
    assert pull_artifact(store, artifact.name, local_store(tmp_path / "b")).path.is_dir()
