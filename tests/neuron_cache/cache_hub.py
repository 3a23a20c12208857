"""The hub of tests/model with what a cache lookup needs besides: tree listings and paths-info.

As huggingface_hub's ``hf_api.py`` knows them: ``list_repo_tree`` (pages linked by ``Link``) and
``get_paths_info`` (form fields).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.model.fake_hub import FakeHub, Request, _git_sha1, _Handler


class CacheHub(FakeHub):
    """``page`` is how many files and folders one answer lists; ``tags`` are pipeline tags."""

    def __init__(self, *, page: int = 1000) -> None:
        super().__init__()
        self.page = page
        self.tags: dict[str, str] = {}
        self.next_host: str | None = None
        self._server.RequestHandlerClass = _CacheHandler

    def __enter__(self) -> CacheHub:
        super().__enter__()
        return self


class _CacheHandler(_Handler):
    disable_nagle_algorithm = True

    def _send_info(
        self, hub: FakeHub, rest: str, query: dict[str, list[str]], token: str | None
    ) -> None:
        assert isinstance(hub, CacheHub)
        if "/tree/" in rest:
            repo_id, _, place = rest.partition("/tree/")
            self._send_tree(hub, repo_id, place, query, token)
        elif query.get("expand") == ["pipeline_tag"]:
            tag = hub.tags.get(rest)
            self._send(200, {}, json.dumps({"id": rest, "pipeline_tag": tag}).encode(), None)
        else:
            super()._send_info(hub, rest, query, token)

    def _send_tree(
        self, hub: CacheHub, repo_id: str, place: str, query: dict[str, list[str]],
        token: str | None,
    ) -> None:  # fmt: skip
        revision, _, folder = place.partition("/")
        found = self._find(hub, repo_id, revision, token, content=True)
        if not found:
            return
        repository, commit = found
        rows = _rows(repository.commits[commit], folder, query.get("recursive") == ["true"])
        if not rows and folder:
            self._fail(404, "EntryNotFound", f"{folder} does not exist")
            return
        start = int(query.get("cursor", ["0"])[0])
        headers = {"Content-Type": "application/json"}
        if start + hub.page < len(rows):
            host = hub.next_host or hub.url
            path = self.path.partition("&cursor=")[0]
            headers["Link"] = f'<{host}{path}&cursor={start + hub.page}>; rel="next"'
        self._send(200, headers, json.dumps(rows[start : start + hub.page]).encode(), None)

    def do_POST(self) -> None:
        hub: CacheHub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        hub.requests.append(Request("POST", path, None, None, ""))
        repo_id, _, revision = path.removeprefix("/api/models/").partition("/paths-info/")
        found = self._find(hub, repo_id, revision, None, content=True)
        if found:
            rows = _rows(found[0].commits[found[1]], "", True)
            body = [row for row in rows if row["path"] in form["paths"]]
            self._send(200, {}, json.dumps(body).encode(), None)


def _rows(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
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
            data = files[name]
            row = {"type": "file", "oid": _git_sha1(data), "size": len(data), "path": name}
            rows[name] = row
    return [rows[path] for path in sorted(rows)]
