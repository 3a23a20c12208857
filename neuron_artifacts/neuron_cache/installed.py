"""Who would use a cache here: the installed optimum-neuron and compiler, and the device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TARGET_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"

_NAMED = re.compile(r"(?P<name>\w+)-(?P<version>[^-]+)\.dist-info")
_PACKAGES = "lib/python3*/site-packages"


@dataclass(frozen=True)
class Installed:
    """A release of optimum-neuron, and the neuronx-cc beside it where there is a real one."""

    release: str
    compiler: str | None


def find_installed(
    environ: Mapping[str, str], *, python: str | None = None, root: Path = Path("/")
) -> Installed | None:
    """The first interpreter that has optimum-neuron: the one named, the active ones, AWS's.

    Read from the disk: no interpreter is started.
    """
    from neuron_artifacts.toolchain.interpreters import find_candidates

    for candidate in find_candidates(environ, python=python, root=root):
        # A link in an environment points to the interpreter it was made from: not followed.
        for packages in Path(candidate.python).parent.parent.glob(_PACKAGES):
            release = _version(packages, "optimum_neuron")
            if release:
                return Installed(release, _compiler(packages))
    return None


def find_target(environ: Mapping[str, str], *, root: Path = Path("/")) -> str | None:
    """The target of this host's device, or the one that the environment sets instead."""
    if forced := environ.get(TARGET_VARIABLE, "").strip():
        return forced
    if not any((root / "dev").glob("neuron[0-9]*")):
        return None
    from neuron_artifacts.toolchain.machine import read_machine

    return read_machine(environ, root=root).platform


def _compiler(packages: Path) -> str | None:
    """PyPI's package of that name is empty: only the real one has a folder of code."""
    return _version(packages, "neuronx_cc") if (packages / "neuronxcc").is_dir() else None


def _version(packages: Path, name: str) -> str | None:
    try:
        found = (_NAMED.fullmatch(entry.name) for entry in packages.iterdir())
        return next((m["version"] for m in found if m and m["name"] == name), None)
    except OSError:
        return None
