"""A small Hugging Face hub over real HTTP, for the routes and headers this project relies on.

It follows the client, huggingface_hub: ``hf_api.py`` (``model_info`` and ``RepoSibling``: the
routes ``/api/models/{id}`` and ``…/revision/{rev}``, with ``blobs``), ``file_download.py``
(``get_hf_file_metadata``: ``X-Repo-Commit``, ``ETag``, ``X-Linked-Etag``, ``X-Linked-Size``, a
redirect for files in LFS; ``http_get``: ``Range``) and ``utils/_http.py``
(``hf_raise_for_status``: which ``X-Error-Code`` means what).

::

    with FakeHub() as hub:
        commit = hub.commit("org/name", {"config.json": b"{}"})
        hub.faults.append(Fault("resolve", status=503, times=2))
        ...
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".model", "tokenizer.json")


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    in_git: set[str] = field(default_factory=set)
    """Names that are not in LFS although their suffix says so."""


@dataclass
class Fault:
    """What goes wrong, for requests whose path holds ``where``, the first ``times`` times.

    ``status`` answers with an error; ``cut`` sends only so many bytes of the body, under the
    full length if ``lie`` is false and under the shorter one if it is true; ``flip`` inverts the
    byte at that offset; ``body`` replaces the body; ``delay`` waits first, in seconds;
    ``no_range`` ignores the Range header; ``first`` is called before the answer is made.
    """

    where: str
    method: str = "GET"
    times: int = 1_000_000
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    lie: bool = False
    flip: int | None = None
    body: bytes | None = None
    delay: float = 0.0
    no_range: bool = False
    first: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str | None
    span: str | None
    host: str


class FakeHub:
    """Serve until closed; ``requests`` and ``sent`` (bytes) tell what happened so far."""

    def __init__(self, *, cdn: bool = False) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.tags: dict[str, str] = {}
        """What the hub says a model is for, by repository."""
        self.sent = 0
        self.cdn = cdn
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering: the next connection is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(
        self, repo_id: str, files: Mapping[str, bytes], *, branch: str = "main", **options: Any
    ) -> str:
        """Put these files, and no others, on a branch; returns the commit."""
        repository = self.repositories.setdefault(repo_id, Repository())
        for name, value in options.items():
            setattr(repository, name, value)
        state = json.dumps(
            [len(repository.commits), {n: _sha256(b) for n, b in sorted(files.items())}]
        )
        commit = hashlib.sha1(state.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[branch] = commit
        return commit

    def asked(self, method: str, part: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and part in r.path]

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.where in path and fault.method == method:
                fault.times -= 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # clients connect many at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client had enough
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        path = unquote(url.path)
        authorization = self.headers.get("Authorization", "")
        token = authorization.removeprefix("Bearer ") or None
        host = (self.headers.get("Host") or "").partition(":")[0]
        hub.requests.append(Request(self.command, path, token, self.headers.get("Range"), host))
        fault = hub.take_fault(self.command, path)
        if fault:
            fault.first()
            time.sleep(fault.delay)
        if fault and fault.status:
            self._send(fault.status, dict(fault.headers), fault.body or b"trouble", None)
        elif fault and fault.body is not None:
            self._send(200, dict(fault.headers), fault.body, None)
        elif path.startswith("/cdn/"):
            self._send_blob(self._find_blob(hub, path.removeprefix("/cdn/")), {}, fault)
        elif path.startswith("/api/models/") and "/tree/" in path:
            self._send_tree(hub, path.removeprefix("/api/models/"), token)
        elif path.startswith("/api/models/"):
            self._send_info(hub, path.removeprefix("/api/models/"), parse_qs(url.query), token)
        elif "/resolve/" in path:
            self._resolve(hub, path.lstrip("/"), token, fault)
        else:
            self._fail(404, "EntryNotFound", "no such page")

    def _find(
        self, hub: FakeHub, repo_id: str, revision: str, token: str | None, *, content: bool
    ) -> tuple[Repository, str] | None:
        repository = hub.repositories.get(repo_id)
        allowed = repository and token in repository.readers
        if token and token.startswith("hf_bad"):
            self._fail(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not allowed):
            self._fail(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repository.gated and content and not allowed:
            self._fail(403 if token else 401, "GatedRepo", f"Access to {repo_id} is restricted")
        else:
            commit = repository.refs.get(revision, revision)
            if commit in repository.commits:
                return repository, commit
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _send_info(
        self, hub: FakeHub, rest: str, query: dict[str, list[str]], token: str | None
    ) -> None:
        repo_id, _, revision = rest.partition("/revision/")
        found = self._find(hub, repo_id, revision or "main", token, content=False)
        if not found:
            return
        repository, commit = found
        siblings = [
            {"rfilename": name} | (_facts(repository, name, data) if "blobs" in query else {})
            for name, data in repository.commits[commit].items()
        ]
        info = {
            "id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings,
            "private": repository.private, "gated": "manual" if repository.gated else False,
            "tags": [], "downloads": 0, "likes": 0, "pipeline_tag": hub.tags.get(repo_id),
        }  # fmt: skip
        self._send(200, {"Content-Type": "application/json"}, json.dumps(info).encode(), None)

    def _send_tree(self, hub: FakeHub, rest: str, token: str | None) -> None:
        """``HfApi.list_repo_tree``, which ``snapshot_download`` asks; always recursive."""
        repo_id, _, revision = rest.partition("/tree/")
        found = self._find(hub, repo_id, revision, token, content=False)
        if not found:
            return
        repository, commit = found
        tree = [
            {"type": "file", "path": name, "oid": _git_sha1(data), "size": len(data)}
            for name, data in repository.commits[commit].items()
        ]
        self._send(200, {"Content-Type": "application/json"}, json.dumps(tree).encode(), None)

    def _resolve(self, hub: FakeHub, path: str, token: str | None, fault: Fault | None) -> None:
        repo_id, _, rest = path.partition("/resolve/")
        repository = hub.repositories.get(repo_id)
        known = [*repository.refs, *repository.commits] if repository else []
        revision = next((r for r in known if rest.startswith(f"{r}/")), rest.partition("/")[0])
        found = self._find(hub, repo_id, revision, token, content=True)
        if not found:
            return
        repository, commit = found
        name = rest.removeprefix(f"{revision}/")
        headers = {"X-Repo-Commit": commit}
        data = repository.commits[commit].get(name)
        if data is None:
            self._fail(404, "EntryNotFound", "Entry not found", headers)
            return
        if _in_lfs(repository, name):
            headers["X-Linked-Etag"] = f'"{_sha256(data)}"'
            headers["X-Linked-Size"] = str(len(data))
            if hub.cdn:  # another host name than the hub's, as in production
                headers["Location"] = f"http://localhost:{hub.port}/cdn/{_sha256(data)}?Signature=s"
                self._send(302, headers, b"", None)
                return
        else:
            headers["ETag"] = f'"{_git_sha1(data)}"'
        self._send_blob(data, headers, fault)

    def _find_blob(self, hub: FakeHub, sha256: str) -> bytes:
        every = (
            f for r in hub.repositories.values() for c in r.commits.values() for f in c.values()
        )
        return next(data for data in every if _sha256(data) == sha256)

    def _send_blob(self, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        if fault and fault.flip is not None:
            at = fault.flip
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        if fault and fault.lie and fault.cut is not None:
            data = data[: fault.cut]
        headers.setdefault("ETag", f'"{_sha256(data)}"')
        span = self.headers.get("Range")
        status = 200
        if span and self.command == "GET" and not (fault and fault.no_range):
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        self._send(status, headers, data, None if fault is None or fault.lie else fault.cut)

    def _fail(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        said = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, said | (headers or {}), json.dumps({"error": message}).encode(), None)

    def _send(self, status: int, headers: dict[str, str], body: bytes, cut: int | None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body if cut is None else body[:cut]
        for start in range(0, len(body), 64 << 10):
            self.server.hub.sent += self.wfile.write(body[start : start + (64 << 10)])  # type: ignore[attr-defined]
        if cut is not None:
            self.close_connection = True


def _facts(repository: Repository, name: str, data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"size": len(data), "blobId": _git_sha1(data)}
    if _in_lfs(repository, name):
        facts["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
    return facts


def _in_lfs(repository: Repository, name: str) -> bool:
    return name.endswith(LFS_SUFFIXES) and name not in repository.in_git


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
