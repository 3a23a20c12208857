"""The persistent cache that libneuronxla keeps: one folder for each graph it ever compiled.

::

    neuronxcc-<compiler>/MODULE_<graph hash>+<flags hash>/
        model.hlo_module.pb  compile_flags.json     what was compiled
        model.neff  model.done                      the result, and that it is whole
        model.log                                   why there is none
        *.lock                                      somebody compiles it, or died doing so
    neuronxcc-<compiler>/MODULE_<entry hash>/       a traced model as optimum-neuron exports it
        …/model.neuron

Where it lies and how the states are told apart follows the Neuron documentation of the cache and
optimum-neuron's ``cache/cleanup.py``. A graph's hash is known only to who traces the model, so a
reader can say what there is, not for which model.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron_artifacts._files import read_regular, stat_regular
from neuron_artifacts.errors import StoreError

URL_VARIABLE = "NEURON_COMPILE_CACHE_URL"
FLAGS_VARIABLE = "NEURON_CC_FLAGS"
DEFAULT_ROOT = Path("/var/tmp/neuron-compile-cache")  # noqa: S108 (libneuronxla's choice)

State = Literal["done", "failed", "locked", "empty"]
STATES: tuple[State, ...] = ("done", "failed", "locked", "empty")

_FLAG_ORIGIN = f"--cache_dir in {FLAGS_VARIABLE}"
_COMPILER = "neuronxcc-"
_MODULE = "MODULE_"
_LOG_TAIL = 8192
_MOST_FLAGS = 1 << 20
_LONGEST_REASON = 200


@dataclass(frozen=True)
class CacheLocation:
    """Where the cache is, and which setting says so; ``path`` is ``None`` for another machine's."""

    url: str
    origin: str
    path: Path | None


@dataclass(frozen=True)
class Module:
    """One graph of the cache; ``size`` is what its files take, in bytes.

    ``target`` is the compilation target where its flags name one, ``reason`` the last line that
    a failed compile left, ``written`` when the folder last changed (seconds since the epoch).
    """

    path: Path
    compiler: str
    state: State
    target: str | None
    size: int
    written: float
    reason: str | None = None

    @property
    def remedy(self) -> str | None:
        """What to do about a folder that stands in the way of a compile."""
        if self.state == "failed":
            return (
                "every later compile of this graph fails at once: remove the folder "
                f"(rm -r {shlex.quote(str(self.path))}), or set {FLAGS_VARIABLE}="
                "--retry_failed_compilation"
            )
        if self.state == "locked":
            return (
                "if no compiler is running, its lock is stale: "
                "neuron_parallel_compile --command clear-locks"
            )
        return None


def locate_cache(environ: Mapping[str, str]) -> CacheLocation:
    """Where a compile started with these variables would look.

    ``--cache_dir`` in ``NEURON_CC_FLAGS`` beats ``NEURON_COMPILE_CACHE_URL``.
    """
    told = (
        (_flag_value(_split(environ.get(FLAGS_VARIABLE, "")), "--cache_dir"), _FLAG_ORIGIN),
        (environ.get(URL_VARIABLE, "").strip(), URL_VARIABLE),
    )
    for url, origin in told:
        if url:
            return CacheLocation(url, origin, _local_path(url))
    return CacheLocation(str(DEFAULT_ROOT), "default", DEFAULT_ROOT)


def read_modules(root: Path) -> tuple[Module, ...]:
    """Every graph below a cache's root, by compiler and name; none if there is no such folder.

    Raises
    ------
    StoreError
        The folder is there and cannot be read.
    """
    found = []
    for folder in _folders(root, _COMPILER):
        compiler = folder.name.removeprefix(_COMPILER)
        found += [_read_module(path, compiler) for path in _folders(folder, _MODULE)]
    return tuple(found)


def summarise(modules: Iterable[Module]) -> list[dict[str, Any]]:
    """Counts and bytes for each compiler and target, as JSON-able rows."""
    groups: dict[tuple[str, str | None], list[Module]] = {}
    for module in modules:
        groups.setdefault((module.compiler, module.target), []).append(module)
    rows: list[dict[str, Any]] = []
    for (compiler, target), members in sorted(groups.items(), key=_by_name):
        states = Counter(module.state for module in members)
        counts: dict[str, int] = {state: states[state] for state in STATES}
        size = sum(module.size for module in members)
        rows.append({"neuronxcc_version": compiler, "target": target, **counts, "bytes": size})
    return rows


def _by_name(group: tuple[tuple[str, str | None], Any]) -> tuple[str, str]:
    (compiler, target), _ = group
    return compiler, target or ""


def classify(names: Iterable[str]) -> State:
    """The state of a folder, from the names of its files."""
    there = set(names)
    if {"model.neff", "model.done"} <= there or "model.neuron" in there:
        return "done"
    if "model.log" in there and "model.neff" not in there:
        return "failed"
    return "locked" if any(name.endswith(".lock") for name in there) else "empty"


def _read_module(path: Path, compiler: str) -> Module:
    names, size = set(), 0
    for file, stat in _walk(path):
        # A traced pipeline has a folder for each of its components.
        inside = file.parent == path
        if inside or file.name == "model.neuron":
            names.add(file.name)
        size += stat.st_size
    state = classify(names)
    return Module(
        path, compiler, state, _read_target(path / "compile_flags.json"), size,
        _written(path), _last_line(path / "model.log") if state == "failed" else None,
    )  # fmt: skip


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            try:
                yield file, file.stat()
            except OSError:
                continue  # a compile beside us has moved it; the next look tells


def _folders(parent: Path, prefix: str) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            names = [e.name for e in entries if e.name.startswith(prefix) and e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"{parent} cannot be read: {error.strerror}") from error
    return [parent / name for name in sorted(names)]


def _read_target(path: Path) -> str | None:
    try:
        flags = json.loads(read_regular(path, _MOST_FLAGS))
    except (OSError, ValueError, RecursionError):
        return None
    words = _split(flags) if isinstance(flags, str) else flags
    if not isinstance(words, list):
        return None
    return _flag_value([word for word in words if isinstance(word, str)], "--target")


def _last_line(path: Path) -> str | None:
    try:
        size = stat_regular(path).st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _LOG_TAIL))
            lines = file.read(_LOG_TAIL).decode(errors="replace").splitlines()
    except OSError:
        return None
    said = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return said and said[:_LONGEST_REASON]


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _local_path(url: str) -> Path | None:
    plain = url.removeprefix("file://")
    return None if "://" in plain else Path(plain).expanduser().absolute()


def _split(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError:  # an open quote: whoever compiles will be told
        return flags.split()


def _flag_value(flags: list[str], name: str) -> str | None:
    """The value of the last ``--name=value`` or ``--name value``."""
    found = None
    for flag, following in zip(flags, [*flags, ""][1:], strict=True):
        if flag == name:
            found = following or found
        elif flag.startswith(f"{name}="):
            found = flag.partition("=")[2] or found
    return found
