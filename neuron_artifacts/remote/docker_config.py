"""Credentials for registries where docker and podman keep them.

``config.json`` of docker (https://docs.docker.com/reference/cli/docker/login/): ``credHelpers`` and
``credsStore`` name programs ``docker-credential-<name>`` that speak the protocol of
https://github.com/docker/docker-credential-helpers; ``auths`` holds them as base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import RemoteError

_HUB = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECONDS = 30


@dataclass(frozen=True)
class Credentials:
    """A user and a password; or, with ``is_refresh_token``, a token to get others with."""

    user: str
    secret: str = field(repr=False)
    is_refresh_token: bool = False

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.user}:{self.secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def find_credentials(registry: str, environ: Mapping[str, str]) -> Credentials | None:
    """What this user has for a registry (``host[:port]``), or ``None`` to be anonymous.

    Raises
    ------
    RemoteError
        A credential helper is named and does not work.
    """
    names = [registry, f"https://{registry}", f"https://{registry}/v2/", f"http://{registry}"]
    if registry in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        names.insert(0, _HUB)
    for config in _configs(environ):
        helper = _first(config.get("credHelpers"), names) or config.get("credsStore")
        found = _ask_helper(str(helper), registry, names[0], environ) if helper else None
        found = found or _stored(_first(config.get("auths"), names))
        if found:
            return found
    return None


def _configs(environ: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    home = Path(environ.get("HOME") or Path.home())
    places = [Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"]
    if environ.get("REGISTRY_AUTH_FILE"):
        places.insert(0, Path(environ["REGISTRY_AUTH_FILE"]))
    if environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    for place in places:
        try:
            content = json.loads(place.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield content


def _first(table: Any, names: list[str]) -> Any:
    if not isinstance(table, dict):
        return None
    return next((table[name] for name in names if name in table), None)


def _stored(entry: Any) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    if entry.get("identitytoken"):
        return Credentials("<token>", str(entry["identitytoken"]), is_refresh_token=True)
    try:
        pair = base64.b64decode(str(entry.get("auth", "")), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, secret = pair.partition(":")
    if colon:
        return Credentials(user, secret)
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    return None


def _ask_helper(
    helper: str, registry: str, server: str, environ: Mapping[str, str]
) -> Credentials | None:
    if not _HELPER.fullmatch(helper):
        raise RemoteError(f"docker's config.json names an impossible helper for {registry}")
    program = f"docker-credential-{helper}"
    try:
        asked = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, env=dict(environ),
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RemoteError(
            f"{program}, which docker's config.json names for {registry}, does not work: "
            f"{type(error).__name__}",
            hint="install it, or log in without it",
        ) from None
    if asked.returncode:
        return None  # it has none for this registry
    try:
        answer = json.loads(asked.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RemoteError(f"{program} does not answer as a credential helper does") from None
    return Credentials(user, secret, is_refresh_token=user == "<token>")
