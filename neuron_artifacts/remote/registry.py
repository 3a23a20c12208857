"""Requests to one repository of an OCI registry, with the token they take.

Routes: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md; tokens:
https://distribution.github.io/distribution/spec/auth/token/.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from neuron_artifacts._files import load_json_object
from neuron_artifacts.errors import MissError, RemoteError
from neuron_artifacts.remote import http
from neuron_artifacts.remote.docker_config import Credentials, find_credentials
from neuron_artifacts.remote.port import redact

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_MOST_TOKEN_BYTES = 1 << 20
_CLIENT = "neuron-artifacts"


class Registry:
    """``host`` is ``name[:port]``; plain HTTP only for this machine, or where asked for."""

    def __init__(
        self, host: str, repository: str, *, plain_http: bool, environ: Mapping[str, str]
    ) -> None:
        plain = plain_http or host.rpartition(":")[0] in _LOOPBACK or host in _LOOPBACK
        self.host, self.repository = host, repository
        self._base = f"{'http' if plain else 'https'}://{host}/v2/{repository}/"
        self._environ = environ
        self._credentials: Credentials | None = None
        self._asked_for_credentials = False
        self._authorization: dict[str, str] = {}
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        stream: tuple[Iterable[bytes], int] | None = None,
    ) -> http.Response:
        """Ask below ``/v2/<repository>/``, or at a whole URL the registry gave.

        A stream is sent once: the token it takes must be known, which any request before it
        sees to.

        Raises
        ------
        MissError
            404.
        RemoteError
            Any other refusal.
        """
        url = http.join(self._base, path)
        scope = "pull" if method in ("GET", "HEAD") else "pull,push"
        chunks, size = stream or (body, len(body) if body is not None else None)

        def ask() -> http.Response:
            ours = urlsplit(url).netloc == urlsplit(self._base).netloc
            authorization = self._authorization.get(scope) if ours else None
            return http.send(
                method, url, headers=headers, authorization=authorization, body=chunks, size=size
            )  # fmt: skip

        try:
            return ask()
        except http.Refused as refused:
            if refused.status != 401 or not self._authorize(refused, scope) or stream:
                raise self._explain(refused, path, again=bool(stream)) from None
        try:
            return ask()
        except http.Refused as refused:
            raise self._explain(refused, path) from None

    def _authorize(self, refused: http.Refused, scope: str) -> bool:
        """Get what the registry asks for; whether there is something new to try."""
        if urlsplit(refused.url).netloc != self.host:
            return False  # whoever a redirect leads to may not ask for a password
        challenge = refused.headers.get("WWW-Authenticate", "")
        with self._lock:
            if not self._asked_for_credentials:
                self._credentials = find_credentials(self.host, self._environ)
                self._asked_for_credentials = True
            kind = challenge.partition(" ")[0].lower()
            if kind == "basic" and self._credentials:
                self._authorization[scope] = self._credentials.basic
            elif kind == "bearer":
                token = self._fetch_token(dict(_CHALLENGE.findall(challenge)), scope)
                self._authorization[scope] = f"Bearer {token}"
            else:
                return False
        return True

    def _fetch_token(self, challenge: Mapping[str, str], actions: str) -> str:
        realm = challenge.get("realm", "")
        self._check_realm(realm)
        query = {
            "service": challenge.get("service", ""),
            "scope": f"repository:{self.repository}:{actions}",
        }
        credentials = self._credentials
        try:
            if credentials and credentials.is_refresh_token:
                form = {
                    "grant_type": "refresh_token", "refresh_token": credentials.secret,
                    "client_id": _CLIENT, **query,
                }  # fmt: skip
                opened = http.send(
                    "POST", realm, body=urlencode(form).encode(),
                    headers={"Content-Type": "application/x-www-form-urlencoded"},
                )  # fmt: skip
            else:
                basic = credentials.basic if credentials else None
                separator = "&" if "?" in realm else "?"
                opened = http.send(
                    "GET", f"{realm}{separator}{urlencode(query)}", authorization=basic
                )
            with opened as response:
                answer = load_json_object(response.read(_MOST_TOKEN_BYTES))
        except http.Refused as refused:
            raise self._explain(refused, "a token") from None
        except ValueError:
            answer = {}
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str):
            raise RemoteError(f"{self.host} names a token service that gives no token")
        return token

    def _check_realm(self, realm: str) -> None:
        """A password goes nowhere without encryption, unless the registry itself has none."""
        try:
            parts = urlsplit(realm)
        except ValueError:
            raise RemoteError(f"{self.host} names a token service that is no URL") from None
        plain = urlsplit(self._base).scheme == "http"
        if parts.scheme != "https" and not (plain and parts.scheme == "http"):
            raise RemoteError(f"{self.host} names a token service without encryption")

    def _explain(
        self, refused: http.Refused, path: str, *, again: bool = False
    ) -> RemoteError | MissError:
        what = f"{self.host}/{self.repository}"
        path = redact(path).partition("?")[0]
        if refused.status == 404:
            return MissError(f"{what} has no {path}")
        if refused.status in (401, 403):
            return RemoteError(
                f"{what} refuses access ({refused.status})", passing=again,
                hint=f"docker login {self.host} (or podman, skopeo, oras) with a user who may",
            )  # fmt: skip
        if refused.status == 429:
            return RemoteError(f"{what} is limiting requests", passing=True)
        return RemoteError(
            f"{what} answered {refused.status} about {path}",
            # Some, like distribution 2.8 on files, for a moment do not know a blob that several
            # have just uploaded at once.
            passing=refused.status == 400 and path.startswith("manifests/"),
        )


def body_of(response: http.Response, most: int) -> dict[str, Any]:
    """A JSON answer."""
    with response:
        try:
            return load_json_object(response.read(most))
        except ValueError:
            raise RemoteError(f"{response.url} does not answer as a registry does") from None
