"""Stores that many machines share, and artifacts on their way to and from them.

::

    push: verify here → send the blobs that are missing there → publish one small manifest
    pull: read the manifest → link what is here, fetch the rest by range → verify → publish here
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuron_artifacts._lazy import importing

if TYPE_CHECKING:
    from neuron_artifacts.remote.bundle import Bundle, export_artifact, import_artifact
    from neuron_artifacts.remote.collect import Collected, collect_remote
    from neuron_artifacts.remote.config import read_remotes
    from neuron_artifacts.remote.connect import names_of, open_remote, open_url
    from neuron_artifacts.remote.names import add_remote, find_key, remove_remote
    from neuron_artifacts.remote.port import Probe, RemoteStore
    from neuron_artifacts.remote.pull import Pulled, pull_artifact
    from neuron_artifacts.remote.push import Pushed, push_artifact

__all__ = [
    "Bundle", "Collected", "Probe", "Pulled", "Pushed", "RemoteStore", "add_remote",
    "collect_remote", "export_artifact",
    "find_key", "import_artifact", "names_of",
    "open_remote", "open_url", "pull_artifact", "push_artifact", "read_remotes", "remove_remote",
]  # fmt: skip

_HOMES = {
    "Bundle": "bundle", "export_artifact": "bundle", "import_artifact": "bundle",
    "Collected": "collect", "collect_remote": "collect", "read_remotes": "config",
    "names_of": "connect", "open_remote": "connect", "open_url": "connect", "add_remote": "names",
    "find_key": "names", "remove_remote": "names", "Probe": "port", "RemoteStore": "port",
    "Pulled": "pull", "pull_artifact": "pull", "Pushed": "push", "push_artifact": "push",
}  # fmt: skip

# Whether a remote is configured takes none of these.
__getattr__ = importing(__name__, _HOMES)
