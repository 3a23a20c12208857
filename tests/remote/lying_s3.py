"""An S3 server that takes ``If-None-Match: *`` and ignores it, as several that exist do.

Requests, headers and the listing's XML are those of
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
(GetObject, HeadObject, PutObject, DeleteObjects, ListObjectsV2).
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from tests.remote.serving import HttpServing, QuietHandler

_DATE = "2026-01-01T00:00:00.000Z"


class LyingS3(HttpServing):
    """``objects`` by bucket and name; ``conditions`` counts those that were ignored."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.conditions = 0
        super().__init__(_Handler)


class _Handler(QuietHandler):
    @property
    def s3(self) -> LyingS3:
        return self.server.owner  # type: ignore[attr-defined, no-any-return]

    def do_PUT(self) -> None:
        self.s3.conditions += self.headers.get("If-None-Match") == "*"
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.s3.objects[self._name()] = data
        self._send(200, data, head=True)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        data = self.s3.objects.get(self._name())
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if "list-type" in query:
            self._send(200, self._listing(query.get("prefix", [""])[0]))
        elif data is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif span:
            start, end = int(span[1]), int(span[2] or len(data) - 1)
            whole = len(data)
            self._send(206, data[start : end + 1], f"bytes {start}-{end}/{whole}")
        else:
            self._send(200, data)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """DeleteObjects."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = re.findall(r"<Key>([^<]*)</Key>", body)
        for name in names:
            self.s3.objects.pop(f"{self._name().strip('/')}/{unescape(name)}", None)
        gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        self._send(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _listing(self, prefix: str) -> bytes:
        bucket = self._name().strip("/")
        names = [n.removeprefix(f"{bucket}/") for n in sorted(self.s3.objects)]
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{_DATE}</LastModified>"
            f"<Size>{len(self.s3.objects[f'{bucket}/{name}'])}</Size></Contents>"
            for name in names
            if name.startswith(prefix)
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()
        )

    def _send(self, status: int, body: bytes, span: str = "", *, head: bool = False) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", "0" if head else str(len(body)))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if not head and self.command != "HEAD":
            self.wfile.write(body)
