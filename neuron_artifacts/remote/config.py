"""Which remote stores this user knows, by name: one small file, and no secret in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from neuron_artifacts._files import write_atomically
from neuron_artifacts.errors import UsageError
from neuron_artifacts.store.staging import storing

CONFIG_VARIABLE = "NEURON_ARTIFACTS_CONFIG"
SCHEMES = ("file", "s3", "gs", "az", "hf", "oci")
PARAMETERS = {"s3": {"endpoint", "region"}, "oci": {"plain-http"}}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """``NEURON_ARTIFACTS_CONFIG``, else ``remotes.yaml`` in the user's configuration folder."""
    environ = os.environ if environ is None else environ
    chosen = environ.get(CONFIG_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "neuron-artifacts" / "remotes.yaml"


def read_remotes(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """URLs by name, in the order they were added.

    Raises
    ------
    UsageError
        The file is malformed.
    """
    path = config_path(environ)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    import yaml

    try:
        content = yaml.safe_load(data) or {}
        remotes = content.get("remotes", {})
        return {str(name): check_url(entry["url"]) for name, entry in remotes.items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no list of remote stores",
            hint="remotes: {NAME: {url: URL}}; or delete it, and use remote add",
        ) from error


def write_remotes(remotes: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Path:
    """Replace the file; returns its place."""
    import yaml

    path = config_path(environ)
    body = {"remotes": {name: {"url": url} for name, url in remotes.items()}}
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, yaml.safe_dump(body, sort_keys=False).encode(), mode=0o600)
    return path


def check_name(name: str) -> str:
    """A name a remote store may have."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a remote store", hint="letters, digits, dots and dashes"
        )
    return name


def check_url(url: str) -> str:
    """The URL of a remote store, spelled once and without a secret.

    Raises
    ------
    UsageError
        Another scheme, no place, an unknown parameter, or a user and password in it.
    """
    parts = _split(url)
    if parts.scheme not in SCHEMES:
        raise UsageError(
            f"{parts.scheme or 'a path'}: no such kind of remote store",
            hint=f"a URL with {', '.join(f'{scheme}://' for scheme in SCHEMES)}",
        )
    values = [value for _, value in parse_qsl(parts.query)]
    if any("@" in text for text in (parts.netloc, *values)):
        raise UsageError(
            "a remote store's URL must hold no user or password",
            hint="credentials come from the usual place of each store, see docs/remote-stores.md",
        )
    known = PARAMETERS.get(parts.scheme, set())
    unknown = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - known
    if any(mark in value for value in values for mark in "?&#"):
        raise UsageError(
            f"a parameter of {parts.scheme}:// holds parameters of its own",
            hint="signed URLs are of no use here, see docs/remote-stores.md",
        )
    if unknown or parts.fragment:
        raise UsageError(
            f"{parts.scheme}:// takes no parameter {', '.join(sorted(unknown)) or '#'}",
            hint=f"it takes {', '.join(sorted(known)) or 'none'}",
        )
    if parts.scheme == "file" and not (parts.netloc in ("", "localhost") and parts.path[:1] == "/"):
        raise UsageError("file:// takes an absolute path", hint="e.g. file:///mnt/shared/artifacts")
    if parts.scheme != "file" and not parts.netloc:
        raise UsageError(f"{url} names no place", hint="e.g. s3://bucket/prefix, hf://org/repo")
    return url.rstrip("/")


def _split(url: str) -> SplitResult:
    hint = "e.g. s3://bucket/prefix, oci://registry:5000/repository"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise UsageError("this is no URL: its host or port is malformed", hint=hint) from None
    if not url.isprintable():
        raise UsageError("this is no URL: it holds control characters", hint=hint)
    return parts
