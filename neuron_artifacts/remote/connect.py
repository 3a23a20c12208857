"""From the name or URL of a remote store to the store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from neuron_artifacts.errors import UsageError
from neuron_artifacts.remote.config import check_url, read_remotes
from neuron_artifacts.remote.port import RemoteStore


def open_remote(name: str | None = None, environ: Mapping[str, str] | None = None) -> RemoteStore:
    """The remote store of that name or URL; without either the only one there is.

    Nothing is asked of it yet; libraries it needs are imported here.

    Raises
    ------
    UsageError
        No such name, several to choose from, or a library is not installed.
    """
    environ = os.environ if environ is None else environ
    if name and "://" in name:
        return open_url(name, environ)
    remotes = read_remotes(environ)
    if name is None and len(remotes) == 1:
        return open_url(next(iter(remotes.values())), environ)
    if name not in remotes:
        known = ", ".join(remotes) or "none yet"
        raise UsageError(
            f"no remote store is called {name}" if name else "which remote store is not said",
            hint=f"there are: {known}; neuron-artifacts remote add NAME URL adds one",
        )
    return open_url(remotes[name], environ)


def names_of(name: str | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """All that the store :func:`open_remote` gives is called: what was asked for, names, URL.

    A rule about a name must hold as well for who asks by the URL, or for the only store there is.
    """
    remotes = read_remotes(environ)
    if name is None and len(remotes) == 1:
        name = next(iter(remotes))
    if name is None:
        return ()
    url = remotes.get(name) or check_url(name)
    others = [other for other, place in remotes.items() if place == url]
    return tuple(dict.fromkeys((name, *others, url)))


def open_url(url: str, environ: Mapping[str, str] | None = None) -> RemoteStore:
    """The remote store at a URL."""
    from pathlib import Path

    from neuron_artifacts.remote.objects import CasStore

    environ = os.environ if environ is None else environ
    parts = urlsplit(check_url(url))
    if parts.scheme == "file":
        from neuron_artifacts.remote.file import FileObjects

        return CasStore(FileObjects(Path(unquote(parts.path))))
    if parts.scheme == "hf":
        from neuron_artifacts.remote.hub import HubStore

        return HubStore(url)
    if parts.scheme == "oci":
        from neuron_artifacts.remote.oci import OciStore

        return OciStore(url, environ)
    from neuron_artifacts.remote.object_store import CloudObjects

    return CasStore(CloudObjects(url, environ))
