"""The hub of tests/model with what caches need besides: listings, paths-info, uploads, latency.

As huggingface_hub's ``hf_api.py`` knows them: ``list_repo_tree`` (pages linked by ``Link``, at
most 50 entries long where details are asked for), ``get_paths_info`` (form fields); uploads are in
:mod:`tests.neuron_cache.hub_writes`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.model.fake_hub import (
    FakeHub,
    Repository,
    Request,
    _git_sha1,
    _Handler,
    _in_lfs,
    _sha256,
)
from tests.neuron_cache import hub_writes
from tests.neuron_cache.hub_writes import Answer, Refusal

_EXPANDED_PAGE = 50


class CacheHub(FakeHub):
    """``page`` is how many files and folders one answer lists.

    ``latency`` is waited before every answer, in seconds. A token ``hf_<user>`` may write, and
    read what its user created.
    """

    def __init__(self, *, page: int = 1000, latency: float = 0.0) -> None:
        super().__init__()
        self.page = page
        self.latency = latency
        self.lfs: dict[str, bytes] = {}
        self.next_host: str | None = None
        self._server.RequestHandlerClass = _CacheHandler

    def __enter__(self) -> CacheHub:
        super().__enter__()
        return self


class _CacheHandler(_Handler):
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        time.sleep(self._hub.latency)
        super()._answer()

    @property
    def _hub(self) -> CacheHub:
        hub: CacheHub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def do_GET(self) -> None:
        if unquote(urlsplit(self.path).path) == "/api/whoami-v2":
            self._write(lambda _: hub_writes.whoami(self._user()))
        else:
            super().do_GET()

    def _send_info(
        self, hub: FakeHub, rest: str, query: dict[str, list[str]], token: str | None
    ) -> None:
        if rest.endswith("/refs") or "/commits/" in rest:
            repo_id, _, revision = rest.removesuffix("/refs").partition("/commits/")
            found = self._find(hub, repo_id, revision or "main", token, content=True)
            if found:
                body = hub_writes.commits(found[0]) if revision else hub_writes.refs(found[0])[1]
                self._send(200, {}, json.dumps(body).encode(), None)
        elif query.get("expand") == ["pipeline_tag"]:
            tag = hub.tags.get(rest)
            self._send(200, {}, json.dumps({"id": rest, "pipeline_tag": tag}).encode(), None)
        else:
            super()._send_info(hub, rest, query, token)

    def _send_tree(self, hub: FakeHub, rest: str, token: str | None) -> None:
        repo_id, _, place = rest.partition("/tree/")
        revision, _, folder = place.partition("/")
        query = parse_qs(urlsplit(self.path).query)
        found = self._find(hub, repo_id, revision, token, content=True)
        if not found:
            return
        repository, commit = found
        rows = _rows(repository, commit, folder, query.get("recursive") == ["true"])
        if not rows and folder:
            self._fail(404, "EntryNotFound", f"{folder} does not exist")
            return
        start = int(query.get("cursor", ["0"])[0])
        page = self._hub.page
        size = min(page, _EXPANDED_PAGE) if query.get("expand") == ["true"] else page
        headers = {"Content-Type": "application/json"}
        if start + size < len(rows):
            host = self._hub.next_host or hub.url
            path = self.path.partition("&cursor=")[0]
            headers["Link"] = f'<{host}{path}&cursor={start + size}>; rel="next"'
        self._send(200, headers, json.dumps(rows[start : start + size]).encode(), None)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/paths-info/" in path:
            time.sleep(self._hub.latency)
            self._send_paths(path)
        else:
            self._write(lambda data: self._post(path, data))

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        self._write(lambda data: hub_writes.lfs_put(self._hub, oid, data))

    def do_DELETE(self) -> None:
        self._write(lambda data: hub_writes.delete(self._hub, json.loads(data), self._user()))

    def _send_paths(self, path: str) -> None:
        hub = self._hub
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        hub.requests.append(Request("POST", path, None, None, ""))
        repo_id, _, revision = path.removeprefix("/api/models/").partition("/paths-info/")
        found = self._find(hub, repo_id, revision, self._token(), content=True)
        if found:
            rows = _rows(*found, "", True)
            body = [row for row in rows if row["path"] in form["paths"]]
            self._send(200, {}, json.dumps(body).encode(), None)

    def _post(self, path: str, data: bytes) -> Answer:
        hub = self._hub
        if path == "/api/repos/create":
            return hub_writes.create(hub, json.loads(data), self._user())
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            repo_id = path.removesuffix(".git/info/lfs/objects/batch").lstrip("/")
            return hub_writes.lfs_batch(hub, repo_id, json.loads(data))
        if path.startswith("/lfs/"):
            return hub_writes.lfs_verify(hub, json.loads(data))
        for action in ("preupload", "commit"):
            repo_id, found, revision = path.removeprefix("/api/models/").partition(f"/{action}/")
            if found and repo_id not in hub.repositories:
                raise Refusal(404, "Repository not found", "RepoNotFound")
            if found and action == "preupload":
                return hub_writes.preupload(hub.repositories[repo_id], json.loads(data))
            if found:
                return hub_writes.commit(hub, repo_id, revision, data.split(b"\n"))
        raise Refusal(404, "no such page", "EntryNotFound")

    def _write(self, answer: Callable[[bytes], Answer]) -> None:
        """Answer a request with a body: by whoever has a token, and subject to faults."""
        hub = self._hub
        time.sleep(hub.latency)
        data = self._body()
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(Request(self.command, path, self._token(), None, ""))
        fault = hub.take_fault(self.command, path)
        if fault and fault.status:
            self._send(fault.status, dict(fault.headers), b"trouble", None)
            return
        try:
            status, body = answer(data)
            self._send(status, {}, json.dumps(body).encode(), None)
        except Refusal as refusal:
            self._fail(refusal.status, refusal.code, str(refusal))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _user(self) -> str:
        token = self._token()
        if not token or not token.startswith("hf_"):
            raise Refusal(401, "Invalid username or password.")
        return token.removeprefix("hf_")


def _rows(
    repository: Repository, commit: str, folder: str, recursive: bool
) -> list[dict[str, Any]]:
    files = repository.commits[commit]
    folder = folder.strip("/")
    prefix = f"{folder}/" if folder else ""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(n for n in files if n.startswith(prefix)):
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            path = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(path.encode()).hexdigest()
            if depth == 1 or recursive:
                rows[path] = {"type": "directory", "oid": oid, "size": 0, "path": path}
        if len(parts) == 1 or recursive:
            rows[name] = _file_row(repository, name, files[name])
    return [rows[path] for path in sorted(rows)]


def _file_row(repository: Repository, name: str, data: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "size": len(data), "path": name}
    if not _in_lfs(repository, name):
        return {**row, "oid": _git_sha1(data)}
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{_sha256(data)}\n"
        f"size {len(data)}\n"
    ).encode()
    lfs = {"oid": _sha256(data), "size": len(data), "pointerSize": len(pointer)}
    return {**row, "oid": _git_sha1(pointer), "lfs": lfs}
