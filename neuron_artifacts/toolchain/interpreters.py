"""Where interpreters that may have the Neuron libraries are looked for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PYTHON_VARIABLE = "NEURON_ARTIFACTS_PYTHON"
IMAGES = "opt/aws_neuronx_venv_*"
"""The virtual environments of AWS's machine images, one for each combination of libraries.
Source: ``deploy/environments/dlami.rst`` of aws-neuron-sdk."""


@dataclass(frozen=True)
class Candidate:
    """An interpreter to ask, and why. ``named`` ones were asked for by the user."""

    python: Path
    origin: str
    named: bool = False


def find_candidates(
    environ: Mapping[str, str], *, python: str | os.PathLike[str] | None, root: Path
) -> list[Candidate]:
    """Every interpreter worth asking, each once, the best guess first."""
    found: dict[tuple[str, str], Candidate] = {}
    for candidate in _candidates(environ, python, root):
        found.setdefault(identify(candidate.python), candidate)
    return list(found.values())


def identify(python: Path) -> tuple[str, str]:
    """What makes an interpreter another one: the folder it is started from, and the binary.

    Two names in one folder for one binary are the same; the same binary in two folders is not,
    because a virtual environment is where its link lies.
    """
    return os.path.realpath(python.parent), os.path.realpath(python)


def _candidates(
    environ: Mapping[str, str], python: str | os.PathLike[str] | None, root: Path
) -> Iterator[Candidate]:
    for origin, name in (("--python", python), (PYTHON_VARIABLE, environ.get(PYTHON_VARIABLE))):
        if name:
            yield Candidate(_locate(name, environ), origin, named=True)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environ.get(variable):
            yield from _existing(Path(environ[variable]) / "bin" / "python", variable)
    for name in ("python", "python3"):
        program = shutil.which(name, path=environ.get("PATH", ""))
        if program:
            yield Candidate(Path(program).absolute(), "PATH")
    for folder in sorted(root.glob(IMAGES), key=lambda path: _version_key(path.name), reverse=True):
        yield from _existing(folder / "bin" / "python", str(root / IMAGES))


def _locate(name: str | os.PathLike[str], environ: Mapping[str, str]) -> Path:
    """A path, the folder of a virtual environment, or a name to look up in ``PATH``."""
    path = Path(name).expanduser()
    if len(path.parts) == 1 and not path.exists():
        return Path(shutil.which(str(name), path=environ.get("PATH", "")) or path).absolute()
    return (path / "bin" / "python" if path.is_dir() else path).absolute()


def _existing(python: Path, origin: str) -> Iterator[Candidate]:
    if os.access(python, os.X_OK):
        yield Candidate(python.absolute(), origin)


def _version_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Numbers by their value, so that ``2_10`` comes after ``2_9``."""
    pieces = re.findall(r"\d+|\D+", name)
    return tuple((p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces)
