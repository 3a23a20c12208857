"""What users call an artifact: its directory, its key or a beginning of it, or vLLM's md5.

Every command asks here, so that the same name means the same, and fails in the same way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from neuron_artifacts.artifact import MANIFEST_NAME
from neuron_artifacts.artifact.neuron_config_file import is_md5
from neuron_artifacts.errors import MissError, UsageError
from neuron_artifacts.store.leases import STORE_NAME
from neuron_artifacts.store.local import LocalStore

STORE_VARIABLE = "NEURON_ARTIFACTS_STORE"

_PREFIX = re.compile(r"[0-9a-f]{4,64}")


def is_prefix(name: str) -> bool:
    """Whether a key may begin so: with fewer than four digits, many would."""
    return _PREFIX.fullmatch(name) is not None


def find_artifact(store: LocalStore, name: str) -> Path:
    """An artifact by its directory, its key, the only beginning of one, or vLLM's md5.

    A name with a slash is a directory's; another one only if a manifest lies there.

    Raises
    ------
    MissError
        There is none.
    UsageError
        Several are called so.
    """
    path = Path(name).expanduser()
    if os.sep in name or (name and os.path.lexists(path / MANIFEST_NAME)):
        if not path.is_dir():
            raise MissError(f"there is no directory {path}")
        return path.resolve() if path.is_symlink() else path.absolute()
    found = find_called(store, name)
    return store.path(choose_key(name, (each.name for each in found), str(store.root)))


def find_called(store: LocalStore, name: str) -> list[Path]:
    """Artifacts whose key begins so; where there is none, those that vLLM knows by this md5."""
    if not is_prefix(name):
        return []
    found = [path for path in store.directories() if path.name.startswith(name)]
    if found or not is_md5(name):
        return found
    return [path for path, manifest in store.manifests() if manifest.serve.get("md5") == name]


def choose_key(name: str, keys: Iterable[str], where: str) -> str:
    """The only one of ``keys``, which are called ``name`` in a store. Raises as the above."""
    if not is_prefix(name):
        raise MissError(
            f"there is no artifact {name!r}",
            hint="name a directory, a key, or at least four digits of its beginning",
        )
    found = list(keys)
    if not found:
        raise MissError(
            f"{where} has no artifact {name}",
            hint="`neuron-artifacts list` and `cache-lookup` show what there is",
        )
    if len(found) > 1:
        raise UsageError(
            f"{where} has {len(found)} artifacts called {name}: "
            f"{', '.join(key[:16] for key in found[:10])}",
            hint="give more of the key",
        )
    return found[0]


def directory_called(path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The directory that is meant: ``path`` itself if it exists, else one of a store.

    A bare name is looked for in the store of this folder, or of ``NEURON_ARTIFACTS_STORE``; one
    below ``neuron-compiled-artifacts`` there. What is found nowhere is left as it is.

    Raises
    ------
    UsageError
        Several are called so.
    """
    environ = os.environ if environ is None else environ
    is_bare = path.parent == Path()
    if os.path.lexists(path) or not (is_bare or path.parent.name == STORE_NAME):
        return path
    store = LocalStore(Path(environ.get(STORE_VARIABLE) or ".") if is_bare else path.parent)
    found = find_called(store, path.name)
    if not found:
        return path
    return store.path(choose_key(path.name, (each.name for each in found), str(store.root)))
