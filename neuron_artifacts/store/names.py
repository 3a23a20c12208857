"""What users call an artifact: its directory, its key or a beginning of it, or vLLM's md5."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from neuron_artifacts.artifact.neuron_config_file import is_md5
from neuron_artifacts.errors import MissError
from neuron_artifacts.store.leases import STORE_NAME
from neuron_artifacts.store.local import LocalStore

STORE_VARIABLE = "NEURON_ARTIFACTS_STORE"

_NAME = re.compile(r"[0-9a-f]{4,64}")


def find_called(store: LocalStore, name: str) -> list[Path]:
    """Artifacts whose key begins so; where there is none, those that vLLM knows by this md5."""
    found = [path for path in store.directories() if path.name.startswith(name)]
    if found or not is_md5(name):
        return found
    return [path for path, manifest in store.manifests() if manifest.serve.get("md5") == name]


def directory_called(path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The directory that is meant: ``path`` itself if it exists, else one of a store.

    A bare name is looked for in the store of this folder, or of ``NEURON_ARTIFACTS_STORE``; one
    below ``neuron-compiled-artifacts`` there. What is found nowhere is left as it is.

    Raises
    ------
    MissError
        Several are called so.
    """
    environ = os.environ if environ is None else environ
    is_bare = path.parent == Path()
    if os.path.lexists(path) or not _NAME.fullmatch(path.name):
        return path
    if not is_bare and path.parent.name != STORE_NAME:
        return path
    store = LocalStore(Path(environ.get(STORE_VARIABLE) or ".") if is_bare else path.parent)
    found = find_called(store, path.name)
    if len(found) > 1:
        raise MissError(
            f"{store.root} has {len(found)} artifacts called {path.name}: "
            f"{', '.join(each.name[:16] for each in found)}",
            hint="name one by its key",
        )
    return found[0] if found else path
