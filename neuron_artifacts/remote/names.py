"""Which artifact, and which remote store, a person means."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from neuron_artifacts._files import is_sha256
from neuron_artifacts.artifact import MANIFEST_NAME
from neuron_artifacts.artifact.neuron_config_file import is_md5
from neuron_artifacts.errors import MissError, RefusedError, UsageError
from neuron_artifacts.remote.config import check_name, check_url, read_remotes, write_remotes
from neuron_artifacts.remote.connect import open_url
from neuron_artifacts.remote.moving import persistently
from neuron_artifacts.remote.port import Probe, RemoteStore
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.names import find_called

_PREFIX = re.compile(r"[0-9a-f]{4,64}")


def add_remote(name: str, url: str, *, force: bool = False) -> Probe:
    """Remember a remote store after probing it.

    Raises
    ------
    UsageError
        The name or the URL is wrong, or the name is taken.
    RefusedError
        The store would let two publishers of one key both succeed.
    RemoteError
        It does not answer, or refuses.
    """
    url = check_url(url)
    remotes = read_remotes()
    if remotes.get(check_name(name), url) != url:
        raise UsageError(
            f"{name} is {remotes[name]} already",
            hint=f"neuron-artifacts remote remove {name}, or choose another name",
        )
    probe = open_url(url).probe()
    if not probe.conditional and not force:
        raise RefusedError(
            f"{url} is no safe place for artifacts: {probe.problem}",
            hint="two builders of one key would overwrite each other unnoticed; "
            "--force adds it all the same, for a store that one machine alone writes",
        )
    write_remotes({**remotes, name: url})
    return probe


def remove_remote(name: str) -> str:
    """Forget a remote store; returns its URL."""
    remotes = read_remotes()
    if name not in remotes:
        raise UsageError(
            f"no remote store is called {name}", hint=f"there are: {', '.join(remotes) or 'none'}"
        )
    url = remotes.pop(name)
    write_remotes(remotes)
    return url


def find_artifact(key: str, store: LocalStore) -> Path:
    """The directory of an artifact here: named itself, by its key or a beginning, or as vLLM does.

    Raises
    ------
    MissError
        There is none.
    UsageError
        Several begin so.
    """
    path = Path(key).expanduser()
    if os.sep in key or (path / MANIFEST_NAME).exists():
        if not path.is_dir():
            raise MissError(f"there is no directory {path}")
        return path.absolute()
    called = find_called(store, key) if is_md5(key) else []
    if len(called) == 1:
        return called[0]
    names = [directory.name for directory in store.directories()]
    return store.path(_choose(key, names, str(store.root)))


def find_key(key: str, remote: RemoteStore) -> str:
    """The whole key that begins so in a remote store. Raises like :func:`find_artifact`."""
    if is_sha256(key):
        return key
    return _choose(key, persistently(remote.keys), remote.url)


def _choose(prefix: str, names: Sequence[str], where: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"{prefix!r} is no key", hint="a key, or at least four digits of its beginning"
        )
    found = [name for name in names if name.startswith(prefix)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} keys begin with {prefix}: {', '.join(found[:3])}")
    if not found:
        raise MissError(f"{where} has no artifact {prefix}")
    return found[0]
