"""The compile cache of vllm-neuron (SDK 2.31 and later): one folder for each graph.

::

    <root>/neuron/compile_cache/<key>/
        graph.hlo  graph_<key>.neff       what was compiled, and the result
        .artifact_metadata_v0.json        how inputs and outputs map; names the key again
        .compilation_complete             written last; has the NEFF's size
        command.txt  log-neuron-cc.txt    how the compiler was called, and what it said
    <root>/neuron/compile_cache/.<key>.compilation_metadata    who compiles it now, or died doing so

Files, states and checks follow the documentation of the cache (aws-neuron-sdk,
``vllm-neuron/docs/design/compilation/compilation_cache.md``) and ``vllm_neuron/compile/cache.py``
and ``schema.py`` of public copies of vllm-neuron 0.21. A key is the MD5 of a traced graph, its
inputs, library versions and compiler arguments: opaque to everybody who has not traced the model.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron_artifacts._files import load_json_object, read_regular
from neuron_artifacts.compile_caches.persistent import CacheLocation
from neuron_artifacts.errors import CorruptError, StoreError

ROOT_VARIABLES = ("NEURON_LIBTORCH_CACHE_ROOT", "VLLM_CACHE_ROOT")
"""Where the cache is, the first that is set; libtorch-neuronx-lite knows both, the plugin one."""
BELOW_ROOT = Path("neuron", "compile_cache")

HLO, MARKER, ACCESSED = "graph.hlo", ".compilation_complete", ".cache_accessed"
METADATA = ".artifact_metadata_v0.json"
COMMAND, LOG = "command.txt", "log-neuron-cc.txt"

State = Literal["complete", "locked", "failed", "incomplete", "corrupt"]
STATES: tuple[State, ...] = ("complete", "locked", "failed", "incomplete", "corrupt")

_KEY = re.compile(r"[0-9a-f]{32}")
_HOLDER = ".compilation_metadata"
_SMALL = 1 << 20
_FIELDS: dict[str, tuple[type, ...]] = {
    "version": (int,), "created_timestamp": (str,), "cache_key": (str,),
    "output_count": (int, type(None)), "unused_input_indices": (list, type(None)),
    "has_rng_seed_parameter": (bool,), "io_map": (dict, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class CacheEntry:
    """One graph of the cache; ``size`` is what its files take, in bytes.

    ``state`` is ``complete`` where the loader would take it, ``locked`` while a living process
    compiles it, ``failed`` where a compiler left its log and no NEFF, ``corrupt`` where all is
    there and does not agree (the loader raises), else ``incomplete`` (the loader compiles).
    ``target`` is the device it was compiled for, where its command says so.
    """

    path: Path
    state: State
    size: int
    written: float
    target: str | None = None
    problem: str | None = None

    @property
    def key(self) -> str:
        return self.path.name


def locate_cache(
    environ: Mapping[str, str], *, mounts: Path = Path("/proc/mounts")
) -> CacheLocation:
    """Where a vLLM that is started with these variables would look.

    Without a variable it is below the home directory, or below ``/tmp`` where that is on NFS or
    Lustre, on which file locks do not hold.
    """
    for name in ROOT_VARIABLES:
        if environ.get(name):
            path = Path(environ[name]).expanduser().absolute() / BELOW_ROOT
            return CacheLocation(str(path), name, path)
    home = Path(environ.get("HOME") or Path.home())
    root = home / ".cache" / "vllm"
    if _is_remote(home, mounts):
        root = Path(f"/tmp/vllm_neuron_wdir_{environ.get('USER', '')}")  # noqa: S108 - its choice
    return CacheLocation(str(root / BELOW_ROOT), "default", root / BELOW_ROOT)


def read_entries(folder: Path) -> tuple[CacheEntry, ...]:
    """Every graph of a ``compile_cache`` folder, by key; none if there is no such folder.

    Raises
    ------
    StoreError
        The folder is there and cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}") from error
    return tuple(read_entry(folder / name) for name in sorted(names) if _KEY.fullmatch(name))


def read_entry(path: Path) -> CacheEntry:
    """The state of one graph's folder. Never raises for what it finds in it."""
    sizes = _sizes(path)
    state, problem = _judge(path, sizes)
    return CacheEntry(
        path, state, sum(sizes.values()), _written(path), _read_target(path / COMMAND), problem
    )


def lay_entries(source: Path, folder: Path) -> int:
    """Copy the graphs of ``source`` into the ``compile_cache`` at ``folder``; how many were.

    Each appears whole or not at all, and a complete one that is there is kept. Files are copied,
    never linked: the loader writes into its entries.

    Raises
    ------
    CorruptError
        A graph of ``source`` is not complete.
    StoreError
        The folder cannot be written, or another process compiles one of the graphs there.
    """
    laid = 0
    for entry in read_entries(source):
        if entry.state != "complete":
            raise CorruptError(f"{entry.path} is {entry.state}: {entry.problem}")
        try:
            laid += _lay(entry.path, folder / entry.key)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written: {error.strerror}") from error
    return laid


def collect_entries(folder: Path, destination: Path) -> int:
    """Copy the complete graphs of a cache, without what only its machine needs; how many.

    Raises
    ------
    StoreError
        One cannot be read, or ``destination`` not be written.
    """
    complete = [entry for entry in read_entries(folder) if entry.state == "complete"]
    for entry in complete:
        target = destination / entry.key
        try:
            target.mkdir(parents=True)
            for name in (HLO, f"graph_{entry.key}.neff", METADATA, MARKER, COMMAND):
                if (entry.path / name).is_file():
                    shutil.copyfile(entry.path / name, target / name)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}") from error
    return len(complete)


def _lay(source: Path, destination: Path) -> bool:
    there = read_entry(destination) if destination.is_dir() else None
    if there and there.state == "complete":
        return False
    if there and there.state == "locked":
        raise StoreError(
            f"{destination} cannot be laid: {there.problem}",
            hint="wait until it has ended, or give another VLLM_CACHE_ROOT",
        )
    mark = f"{os.getpid()}.{secrets.token_hex(4)}"
    staged, aside = (
        destination.with_name(f"{source.name}.{what}.{mark}") for what in ("tmp", "old")
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(
            source, staged, ignore=shutil.ignore_patterns(ACCESSED), copy_function=shutil.copyfile
        )
        if there:
            destination.rename(aside)
        return _move_into_place(staged, destination)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _move_into_place(staged: Path, destination: Path) -> bool:
    try:
        staged.rename(destination)
    except OSError:
        if read_entry(destination).state == "complete":
            return False  # somebody else was faster
        raise
    return True


def _judge(path: Path, sizes: Mapping[str, int]) -> tuple[State, str | None]:
    neff = f"graph_{path.name}.neff"
    missing = [name for name in (HLO, neff, METADATA, MARKER) if name not in sizes]
    if not missing:
        problem = _contradiction(path, sizes[neff])
        return ("corrupt", problem) if problem else ("complete", None)
    holder = _holder(path)
    if holder is not None:
        return "locked", f"process {holder} compiles it"
    if neff not in sizes and LOG in sizes:
        return "failed", f"the compiler left no NEFF; see {path / LOG}"
    return "incomplete", f"it has no {', '.join(missing)}"


def _contradiction(path: Path, neff_size: int) -> str | None:
    """What the loader would stumble over, or never see: files that do not agree."""
    try:
        metadata = load_json_object(read_regular(path / METADATA, _SMALL))
        promised = dict(
            line.partition(":")[::2]
            for line in read_regular(path / MARKER, _SMALL).decode().splitlines()
        )
    except (OSError, ValueError) as error:
        return f"a file cannot be read: {error}"
    problem = _check_metadata(metadata, path.name)
    if problem is None and promised.get("neff_size") not in (None, str(neff_size)):
        problem = f"the NEFF has {neff_size} bytes where {promised['neff_size']} were written"
    return problem


def _check_metadata(metadata: Mapping[str, Any], key: str) -> str | None:
    """Schema version 0: a field it does not know, or of another type, is refused there."""
    for name, value in metadata.items():
        kinds = _FIELDS.get(name)
        if kinds is None:
            return f"{METADATA} has the unknown field {name!r}"
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return f"{METADATA} has a wrong {name}"
    if metadata.get("version", 0) != 0:
        return f"{METADATA} has version {metadata['version']}"
    if metadata.get("cache_key") != key:
        return f"{METADATA} is for key {metadata.get('cache_key')}"
    return None if "created_timestamp" in metadata else f"{METADATA} has no created_timestamp"


def _holder(path: Path) -> int | None:
    """The process that compiles this graph, if it lives; the cache is one machine's own."""
    try:
        text = read_regular(path.with_name(f".{path.name}{_HOLDER}"), _SMALL).decode()
        pid = int(dict(line.partition(":")[::2] for line in text.splitlines())["pid"])
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError, KeyError, OverflowError):
        return None
    return pid


def _sizes(path: Path) -> dict[str, int]:
    try:
        with os.scandir(path) as found:
            return {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in found
                if entry.is_file(follow_symlinks=False)
            }
    except OSError:
        return {}


def _read_target(command: Path) -> str | None:
    try:
        words = shlex.split(read_regular(command, _SMALL).decode())
    except (OSError, ValueError):
        return None
    for word, following in itertools.pairwise(words):
        if word == "--target":
            return following
    return None


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_remote(path: Path, mounts: Path) -> bool:
    """Whether the innermost file system that holds ``path`` is NFS or Lustre."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return False
    kinds = {line[1]: line[2] for line in lines if len(line) > 2}
    for parent in (path, *path.parents):
        if str(parent) in kinds:
            kind = kinds[str(parent)]
            return kind.startswith("nfs") or kind == "lustre"
    return False
