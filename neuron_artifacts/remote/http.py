"""Plain HTTP for registries: streamed both ways, a token never leaves the host it is for."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from neuron_artifacts._version import __version__
from neuron_artifacts.errors import RemoteError
from neuron_artifacts.remote.port import redact

TIMEOUT = 60.0
_CHUNK = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Refused(Exception):
    """An answer with an error status; ``headers`` are those of the server at ``url``.

    That is another than was asked, where that one redirected.
    """

    def __init__(self, status: int, headers: Message, url: str) -> None:
        super().__init__(str(status))
        self.status = status
        self.headers = headers
        self.url = url


class Response:
    """An answer whose body is still to be read; a context."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.status: int = opened.status
        self.headers: Message = opened.headers
        self.url: str = opened.url

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, most: int) -> bytes:
        """The body, of which there must be no more than ``most`` bytes."""
        with _explained(self.url):
            data: bytes = self._opened.read(most + 1)
        if len(data) > most:
            raise RemoteError(f"{_place(self.url)} answered with more than {most} bytes")
        return data

    def chunks(self) -> Iterator[bytes]:
        with _explained(self.url):
            # What has arrived counts, also if nothing more does: read() would lose it.
            while chunk := self._opened.read1(_CHUNK):
                yield chunk


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow for reading only, to other HTTP servers, and never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.get_method() not in ("GET", "HEAD"):
            return None
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            raise RemoteError(f"{_place(req.full_url)} redirects to a place without encryption")
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


def send(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    authorization: str | None = None,
    body: bytes | Iterable[bytes] | None = None,
    size: int | None = None,
) -> Response:
    """Ask, and give the answer as soon as its headers are there.

    Raises
    ------
    Refused
        A status of 400 or more that is final, or a redirect that must not be followed.
    RemoteError
        No answer, or one that may pass.
    """
    request = urllib.request.Request(url, data=body, method=method)  # noqa: S310
    for name, value in {"User-Agent": f"neuron-artifacts/{__version__}", **(headers or {})}.items():
        request.add_header(name, value)
    if size is not None:
        request.add_header("Content-Length", str(size))
        if not request.has_header("Content-type"):
            request.add_header("Content-Type", "application/octet-stream")
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    with _explained(url):
        try:
            return Response(_OPENER.open(request, timeout=TIMEOUT))
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in _PASSING:
                    raise Refused(error.code, error.headers, error.url or url) from None
                after = str(error.headers.get("Retry-After", ""))
                raise RemoteError(
                    f"{_place(url)} answered {error.code}", hint="try again later", passing=True,
                    after=float(after) if after.isdecimal() else None,
                ) from None  # fmt: skip


class _explained:
    """Turns what the transport raises into a passing RemoteError."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ValueError):
            raise RemoteError(f"{_place(self._url)} names a place that is no URL") from None
        if not isinstance(cause, (OSError, http.client.HTTPException)):
            return
        if isinstance(error, urllib.error.HTTPError):
            return
        final = isinstance(cause, (ssl.SSLCertVerificationError, socket.gaierror))
        said = redact(str(cause) or type(cause).__name__)
        raise RemoteError(
            f"{_place(self._url)} cannot be reached: {said}", passing=not final,
            hint="check its name and certificate" if final else None,
        ) from None  # fmt: skip


def join(base: str, url: str) -> str:
    """Where a server's ``url``, which may be relative, leads from ``base``.

    Raises
    ------
    RemoteError
        Nowhere.
    """
    with _explained(base):
        return urljoin(base, url)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
