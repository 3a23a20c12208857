"""Where vllm-neuron finds the graphs of an artifact: a folder a key, below our own cache directory.

It stays for the next start, so somebody has to notice when there will be none. Each remembers
whose it is; one is of no use once that artifact is gone and no process has it as its cache.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from neuron_artifacts._files import load_json_object, user_cache_dir, write_atomically
from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.errors import NeuronArtifactsError, StoreError

CACHE_VARIABLE = "VLLM_CACHE_ROOT"
RECORD = ".served.json"

_PROCESSES = Path("/proc")


def root_of(key: str) -> Path:
    """The value of ``VLLM_CACHE_ROOT`` for an artifact, unless the caller has one."""
    return _roots() / key


def remember(root: Path, artifact: Path) -> None:
    """Note whose graphs lie in a root of ours; others are their owners' to keep.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    if root.parent != _roots():
        return
    note = {"artifact": str(artifact.absolute()), "host": socket.gethostname()}
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_atomically(root / RECORD, json.dumps(note).encode())
    except OSError as error:
        raise StoreError(f"{root} cannot be written: {error.strerror}") from error


def find_unused() -> list[Path]:
    """Roots whose artifact is gone, and that no process here serves from.

    One without a note is left alone, and so is one that another host has written: neither its
    file systems nor its processes can be seen from here.
    """
    with suppress(OSError):
        gone = [path for path in _roots().iterdir() if _is_orphan(path)]
        used = set(_used()) if gone else set()
        return sorted(path for path in gone if str(path) not in used)
    return []


def _roots() -> Path:
    return user_cache_dir().absolute() / "vllm"


def _is_orphan(root: Path) -> bool:
    try:
        note = load_json_object((root / RECORD).read_bytes())
        artifact, host = Path(note["artifact"]), note["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return host == socket.gethostname() and _key_at(artifact) != root.name


def _key_at(artifact: Path) -> str | None:
    try:
        return read_manifest(artifact).key
    except NeuronArtifactsError:
        return None


def _used() -> Iterator[str]:
    """The cache of every process that may be looked into: those of this user.

    Raises
    ------
    OSError
        Processes cannot be listed.
    """
    prefix = f"{CACHE_VARIABLE}=".encode()
    for process in _PROCESSES.iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                for entry in (process / "environ").read_bytes().split(b"\0"):
                    if entry.startswith(prefix):
                        yield entry.removeprefix(prefix).decode(errors="surrogateescape")
