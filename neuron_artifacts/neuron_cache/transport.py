"""Requests to a hub, over connections that are kept.

huggingface_hub's own client takes longer to import than a lookup takes altogether, so this speaks
HTTP with the standard library, under that package's rules: its constants, its token, its error
classes. Where the environment names a proxy, its client is used, because it knows them all.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import sys
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from neuron_artifacts._version import __version__
from neuron_artifacts.model.hub_errors import MissingEntryError, TransportError

_AGENT = f"neuron-artifacts/{__version__}; python/{sys.version.split()[0]}"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_GZIP = 16 + 15  # zlib's sign for gzip's frame, and the widest window
_CODE = "X-Error-Code"
_NEXT = re.compile(r'<([^>]+)>[^,]*;\s*rel="?next"?')

MAX_ANSWER_BYTES = 64 << 20
"""A page of a listing, or a model's configuration: far more than any has."""

Origin = tuple[str, str, int | None]


class Response:
    """An answer, as far as this package and huggingface_hub's errors look at one."""

    def __init__(self, url: str, status: int, headers: Any, content: bytes, request: Any) -> None:
        self.url = url
        self.status_code = status
        self.headers = headers
        self.content = content
        self.request = request

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    @property
    def links(self) -> dict[str, dict[str, str]]:
        found = _NEXT.search(self.headers.get("Link") or "")
        return {"next": {"url": found.group(1)}} if found else {}

    def json(self) -> Any:
        return json.loads(self.content)


class Transport(Protocol):
    """Sends one request; raises what :func:`hub_errors.failures` lists."""

    def send(self, method: str, url: str, *, params: Any = None, data: Any = None) -> Any: ...


def choose_transport(timeout: float, environ: Mapping[str, str] | None = None) -> Transport:
    """Plain connections, or huggingface_hub's client where a proxy is set."""
    environ = os.environ if environ is None else environ
    if any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return ClientTransport(timeout)
    return DirectTransport(timeout)


class ClientTransport:
    """huggingface_hub's session, whichever library that uses."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def send(self, method: str, url: str, *, params: Any = None, data: Any = None) -> Any:
        from huggingface_hub import utils as typed

        utils: Any = typed  # its majors export different names
        headers = utils.build_hf_headers(
            library_name="neuron-artifacts", library_version=__version__
        )
        response = utils.get_session().request(
            method, url, headers=headers, timeout=self._timeout, params=params, data=data
        )
        if _says_missing(response):
            raise MissingEntryError(response)
        utils.hf_raise_for_status(response)
        return response


class DirectTransport:
    """The standard library's connections, shared by threads and used again."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}

    def send(self, method: str, url: str, *, params: Any = None, data: Any = None) -> Response:
        if params:
            url = f"{url}?{urlencode(params)}"
        body = urlencode(data, doseq=True).encode() if data is not None else None
        origin = _origin(urlsplit(url))
        for _ in range(_MOST_REDIRECTS):
            response = self._send_once(method, url, body, trusted=_origin(urlsplit(url)) == origin)
            place = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not place:
                break
            url = urljoin(url, place)
        if _says_missing(response):
            raise MissingEntryError(response)
        if not 200 <= response.status_code < 300:
            raise _refusal(response)
        return response

    def _send_once(self, method: str, url: str, body: bytes | None, *, trusted: bool) -> Response:
        """``trusted`` says that the token may go there."""
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "gzip"}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if trusted and (token := find_token()):
            _check_header(token)
            headers["Authorization"] = f"Bearer {token}"
        parts = urlsplit(url)
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        connection, used = self._take(parts)
        try:
            answer, content = _exchange(connection, method, target, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            connection.close()
            if not used:
                raise TransportError(f"{parts.netloc}: {error}") from error
            # The hub had closed the idle connection: that says nothing about a new one.
            return self._send_once(method, url, body, trusted=trusted)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise TransportError(f"{parts.hostname}: {error}") from error
        self._give_back(parts, connection, answer)
        return Response(url, answer.status, answer.headers, content, _Sent(method, url))

    def _take(self, parts: SplitResult) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it was used before."""
        with self._lock:
            idle = self._idle.get(_origin(parts))
            if idle:
                return idle.pop(), True
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, parts.port, timeout=self._timeout, context=self._tls
            ), False
        return http.client.HTTPConnection(host, parts.port, timeout=self._timeout), False

    def _give_back(
        self, parts: SplitResult, connection: http.client.HTTPConnection,
        answer: http.client.HTTPResponse,
    ) -> None:  # fmt: skip
        if answer.will_close:
            connection.close()
            return
        with self._lock:
            self._idle.setdefault(_origin(parts), []).append(connection)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The system's authorities, and those certifi ships, for systems that have none."""
        context = ssl.create_default_context()
        if not os.environ.get("SSL_CERT_FILE"):
            import certifi

            context.load_verify_locations(certifi.where())
        return context


class _Sent:
    """The request of an answer, as errors show it."""

    def __init__(self, method: str, url: str) -> None:
        self.method = method
        self.url = url
        self.headers: dict[str, str] = {}


def find_token() -> str | None:
    """huggingface_hub's token, found without importing how it finds it where that is plain."""
    from huggingface_hub import constants

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    if not os.environ.get("HF_OIDC_RESOURCE"):
        named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or ""
        if token := named.replace("\r", "").replace("\n", "").strip():
            return token
        if "google.colab" not in sys.modules and not Path(constants.HF_TOKEN_PATH).exists():
            return None
    from huggingface_hub import get_token

    return get_token()


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(method, target, body, dict(headers))
    answer = connection.getresponse()
    content = answer.read(MAX_ANSWER_BYTES + 1)
    if answer.headers.get("Content-Encoding") == "gzip" and content:
        content = _unzip(content)
    if len(content) > MAX_ANSWER_BYTES:
        connection.close()
        raise OversizedAnswer(f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
    if answer.length:  # a bounded read does not say that the connection ended too early
        raise http.client.IncompleteRead(content, answer.length)
    return answer, content


def _unzip(data: bytes) -> bytes:
    """What was packed, as far as it is no larger than an answer may be."""
    import zlib

    reader = zlib.decompressobj(_GZIP)
    try:
        content = reader.decompress(data, MAX_ANSWER_BYTES + 1)
    except zlib.error as error:
        raise OSError(f"damaged answer: {error}") from error
    if not reader.eof and len(content) <= MAX_ANSWER_BYTES:
        raise OSError("the answer is cut short")
    return content


def _says_missing(response: Any) -> bool:
    return bool(response.status_code == 404 and response.headers.get(_CODE) == "EntryNotFound")


def _refusal(response: Response) -> Exception:
    """What huggingface_hub's ``hf_raise_for_status`` raises for an answer."""
    from huggingface_hub import errors as typed

    errors: Any = typed  # its majors derive them differently
    code = response.headers.get(_CODE)
    said = response.headers.get("X-Error-Message")
    hidden = response.status_code == 401 and said != "Invalid credentials in Authorization header"
    kind = {
        "RevisionNotFound": errors.RevisionNotFoundError,
        "GatedRepo": errors.GatedRepoError,
        "RepoNotFound": errors.RepositoryNotFoundError,
    }.get(code, errors.RepositoryNotFoundError if hidden else errors.HfHubHTTPError)
    refusal: Exception = kind(f"{response.status_code} for {response.url}", response=response)
    return refusal


def _check_header(token: str) -> None:
    """HTTP carries latin-1 without control characters."""
    token.encode("latin-1")
    if not token.isprintable():
        raise InvalidHeader("the token holds control characters")


class InvalidHeader(ValueError):
    """A value that cannot be sent."""


class OversizedAnswer(ValueError):
    """No hub gives such an answer to these questions."""


def _origin(parts: SplitResult) -> Origin:
    return parts.scheme, parts.hostname or "", parts.port
