"""An OCI registry in one file, for what a real one cannot be told to do: fail, count, refuse.

Routes and statuses are those of https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
("Endpoints"); tokens those of https://distribution.github.io/distribution/spec/auth/token/.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.remote.serving import HttpServing, QuietHandler

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>blobs/uploads|blobs|manifests|tags)/(?P<rest>.*)")


class SmallRegistry(HttpServing):
    """``user`` and ``password`` make it ask for tokens; ``faults`` are statuses for next answers.

    ``requests`` are (method, path, authorization), ``received`` and ``sent`` count blob bytes.
    """

    def __init__(self, *, password: str | None = None, page: int = 1000) -> None:
        self.password, self.page = password, page
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.faults: list[tuple[str, int, dict[str, str]]] = []
        self.cut_next: int | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.received = self.sent = 0
        self.lock = threading.Lock()
        super().__init__(_Handler)


class _Handler(QuietHandler):
    @property
    def registry(self) -> SmallRegistry:
        return self.server.owner  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        registry, url = self.registry, urlsplit(self.path)
        authorization = self.headers.get("Authorization", "")
        with registry.lock:
            registry.requests.append((self.command, self.path, authorization))
            fault = next((f for f in registry.faults if f[0] in self.path), None)
            if fault:
                registry.faults.remove(fault)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault:
            self._send(fault[1], fault[2])
        elif url.path == "/token":
            self._token(authorization)
        elif not self._may(authorization):
            realm = f'Bearer realm="http://{registry.host}/token",service="test"'
            self._send(401, {"WWW-Authenticate": realm})
        elif match := _ROUTE.fullmatch(url.path):
            kind = match["kind"].replace("/", "_")
            getattr(self, f"_{kind}")(match["name"], match["rest"], parse_qs(url.query), body)
        else:
            self._send(404)

    def _token(self, authorization: str) -> None:
        expected = base64.b64encode(f"user:{self.registry.password}".encode()).decode()
        if authorization == f"Basic {expected}":
            self._send(200, {}, json.dumps({"token": "tok-" + "x" * 20}).encode())
        else:
            self._send(401)

    def _may(self, authorization: str) -> bool:
        return self.registry.password is None or authorization == "Bearer tok-" + "x" * 20

    def _blobs_uploads(self, name: str, rest: str, query: dict[str, Any], body: bytes) -> None:
        if self.command == "POST":
            self._send(202, {"Location": f"/v2/{name}/blobs/uploads/1?state=secret-state"})
            return
        digest = query["digest"][0]
        with self.registry.lock:
            self.registry.received += len(body)
        if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
            self._send(400)
            return
        self.registry.blobs[digest] = body
        self._send(201, {"Location": f"/v2/{name}/blobs/{digest}"})

    def _blobs(self, name: str, digest: str, query: dict[str, Any], body: bytes) -> None:
        data = self.registry.blobs.get(digest)
        if data is None:
            self._send(404)
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start, end = int(span[1]), int(span[2] or len(data) - 1)
            headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
            self._send(206, headers, data[start : end + 1], blob=True)
        else:
            self._send(200, {}, data, blob=True)

    def _manifests(self, name: str, tag: str, query: dict[str, Any], body: bytes) -> None:
        if self.command == "PUT":
            image = json.loads(body)
            layers = image["layers"]
            if self.headers["Content-Type"] != image["mediaType"]:
                self._send(400)  # MANIFEST_INVALID
                return
            if any(layer["digest"] not in self.registry.blobs for layer in layers):
                self._send(400)  # MANIFEST_BLOB_UNKNOWN
                return
            self.registry.manifests[tag] = body
            self._send(201, {"Location": f"/v2/{name}/manifests/{tag}"})
        elif tag in self.registry.manifests:
            kind = json.loads(self.registry.manifests[tag])["mediaType"]
            self._send(200, {"Content-Type": kind}, self.registry.manifests[tag])
        else:
            self._send(404)

    def _tags(self, name: str, rest: str, query: dict[str, Any], body: bytes) -> None:
        tags = sorted(self.registry.manifests)
        last = query.get("last", [""])[0]
        page = [tag for tag in tags if tag > last][: self.registry.page]
        headers = {}
        if page and page[-1] != tags[-1]:
            headers["Link"] = f'</v2/{name}/tags/list?last={page[-1]}>; rel="next"'
        self._send(200, headers, json.dumps({"name": name, "tags": page}).encode())

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"",
        *, blob: bool = False,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        registry = self.registry
        if blob:
            with registry.lock:
                cut, registry.cut_next = registry.cut_next, None
                registry.sent += len(body[:cut])
            if cut is not None:
                self.close_connection = True
                body = body[:cut]
        self.wfile.write(body)
