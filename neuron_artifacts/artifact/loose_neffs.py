"""Directories of NEFFs by name: transformers-neuronx's kernels, and vllm-neuron's compile cache.

transformers-neuronx names a kernel by the first 20 digits of the SHA-256 of its HLO (``base.py``,
``hash_hlo``), of which only the form can be checked: the HLO is not kept. An entry of vllm-neuron's
cache is whole when its graph, its NEFF, its metadata and the file that is written last are there
(``vllm_neuron/compile/cache.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts._files import load_json_object, read_regular
from neuron_artifacts.artifact.findings import Finding, severity_of
from neuron_artifacts.artifact.neff import Neff, read_neff
from neuron_artifacts.errors import CorruptError

COMPLETE = ".compilation_complete"
GRAPH = "graph.hlo"

_KERNEL = re.compile(r"[0-9a-f]{20}\.neff")
_ENTRY = re.compile(r"[0-9a-f]{32}")
_METADATA = re.compile(r"\.artifact_metadata_v\d+\.json")
_MAX_METADATA = 1 << 20
_CACHES = ("", "compile_cache/", "neuron/compile_cache/")  # below VLLM_CACHE_ROOT

Contents = tuple[tuple["LooseNeff", ...], list[Finding]]


@dataclass(frozen=True)
class LooseNeff:
    """A NEFF that is a file of its own; ``path`` is relative to the directory."""

    path: str
    neff: Neff


def find_loose(directory: Path) -> Literal["transformers-neuronx", "vllm-neuron"] | None:
    """Which of the two kinds a directory is, by the names in it."""
    names = _names(directory)
    if any(map(_KERNEL.fullmatch, names)):
        return "transformers-neuronx"
    return "vllm-neuron" if _entries(directory) else None


def read_kernels(directory: Path, *, full: bool) -> Contents:
    """transformers-neuronx: every kernel."""
    neffs: list[LooseNeff] = []
    findings: list[Finding] = []
    for name in _names(directory):
        if _KERNEL.fullmatch(name):
            _read(directory, name, full, neffs, findings)
        elif name.endswith(".neff"):
            findings.append(Finding("note", "has no name that the library would look for", name))
    return tuple(neffs), findings


def read_entries(directory: Path, *, full: bool) -> Contents:
    """vllm-neuron: every entry of a cache, or the one entry a directory is."""
    neffs: list[LooseNeff] = []
    findings: list[Finding] = []
    for prefix, key in _entries(directory):
        names = _names(directory / prefix)
        compiled = f"graph_{key}.neff"
        for name in (GRAPH, compiled, COMPLETE):
            if name not in names:
                findings.append(Finding("incomplete", "is missing", f"{prefix}{name}"))
        if compiled in names:
            _read(directory, f"{prefix}{compiled}", full, neffs, findings)
        findings += _check_metadata(directory, prefix, key, names)
    return tuple(neffs), findings


def _entries(directory: Path) -> list[tuple[str, str]]:
    """Relative prefix and key of each entry."""
    if _ENTRY.fullmatch(directory.name) and (directory / GRAPH).is_file():
        return [("", directory.name)]
    return [
        (f"{prefix}{name}/", name)
        for prefix in _CACHES
        for name in _names(directory / prefix)
        if _ENTRY.fullmatch(name) and (directory / prefix / name / GRAPH).is_file()
    ]


def _check_metadata(directory: Path, prefix: str, key: str, names: list[str]) -> list[Finding]:
    found = [name for name in names if _METADATA.fullmatch(name)]
    if not found:
        return [Finding("incomplete", "has no metadata", prefix.rstrip("/"))]
    return [
        Finding("corrupt", problem, f"{prefix}{name}")
        for name in found
        if (problem := _metadata_problem(directory / prefix / name, key))
    ]


def _metadata_problem(path: Path, key: str) -> str | None:
    try:
        content = load_json_object(read_regular(path, _MAX_METADATA))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return f"is no usable JSON ({error})"
    return None if content.get("cache_key") == key else "is another entry's"


def _read(
    directory: Path, name: str, full: bool, neffs: list[LooseNeff], findings: list[Finding]
) -> None:
    try:
        neffs.append(LooseNeff(name, read_neff(directory / name, full=full)))
    except CorruptError as error:
        findings.append(Finding(severity_of(error), error.message, name))


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []
