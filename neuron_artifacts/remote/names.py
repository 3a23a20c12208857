"""Which artifact, and which remote store, a person means."""

from __future__ import annotations

from neuron_artifacts._files import is_sha256
from neuron_artifacts.errors import RefusedError, UsageError
from neuron_artifacts.remote.config import check_name, check_url, read_remotes, write_remotes
from neuron_artifacts.remote.connect import open_url
from neuron_artifacts.remote.moving import persistently
from neuron_artifacts.remote.port import Probe, RemoteStore
from neuron_artifacts.store.names import choose_key, is_prefix


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


def find_key(key: str, remote: RemoteStore) -> str:
    """The whole key that begins so in a remote store.

    Raises
    ------
    MissError
        There is none.
    UsageError
        Several begin so.
    """
    if is_sha256(key):
        return key
    keys = persistently(remote.keys) if is_prefix(key) else []
    return choose_key(key, (each for each in keys if each.startswith(key)), remote.url)
