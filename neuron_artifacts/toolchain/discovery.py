"""Find the interpreters of this machine, ask each, and choose the one for a backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts.errors import ToolchainError
from neuron_artifacts.toolchain.generations import generations_of, missing_packages
from neuron_artifacts.toolchain.interpreters import (
    PYTHON_VARIABLE,
    Candidate,
    find_candidates,
    identify,
)
from neuron_artifacts.toolchain.machine import Machine, read_machine
from neuron_artifacts.toolchain.probing import is_script, recall_or_probe
from neuron_artifacts.toolchain.types import Toolchain

INDEX = "https://pip.repos.neuron.amazonaws.com"
"""Where the real packages are; PyPI has empty ones of the same names."""

_PROBES_AT_ONCE = 4
_ROOT = Path("/")


@dataclass(frozen=True)
class Unusable:
    """An interpreter that did not answer, and why."""

    python: Path
    origin: str
    reason: str
    named: bool


@dataclass(frozen=True)
class Survey:
    """Everything that was looked at. ``named`` is the interpreter the user asked for."""

    machine: Machine
    toolchains: tuple[Toolchain, ...]
    unusable: tuple[Unusable, ...]
    named: Path | None


def survey_toolchains(
    environ: Mapping[str, str],
    *,
    python: str | os.PathLike[str] | None = None,
    root: Path = _ROOT,
) -> Survey:
    """Ask every interpreter found here. Never raises: what does not work is part of the answer.

    ``root`` is where ``/opt``, ``/dev`` and ``/sys`` are looked for.
    """
    candidates = find_candidates(environ, python=python, root=root)
    machine = read_machine(environ, root=root)
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        found = list(pool.map(lambda candidate: _ask(candidate, environ, machine), candidates))
    toolchains: dict[tuple[str, str], Toolchain] = {}
    for entry in found:  # two scripts may start one interpreter
        if isinstance(entry, Toolchain):
            toolchains.setdefault(identify(entry.python), entry)
    named = [candidate.python for candidate in candidates if candidate.named]
    return Survey(
        machine,
        tuple(toolchains.values()),
        tuple(entry for entry in found if isinstance(entry, Unusable)),
        named[0] if named else None,
    )


def find_toolchains(
    environ: Mapping[str, str],
    *,
    python: str | os.PathLike[str] | None = None,
    root: Path = _ROOT,
) -> list[Toolchain]:
    """Every interpreter that answers: ``python``, ``NEURON_ARTIFACTS_PYTHON``, the active
    environment, and those of AWS's machine images, in this order and each once."""
    return list(survey_toolchains(environ, python=python, root=root).toolchains)


def choose_toolchain(
    backend: str,
    environ: Mapping[str, str],
    *,
    python: str | os.PathLike[str] | None = None,
    root: Path = _ROOT,
) -> Toolchain:
    """The first interpreter that can run ``backend``; a named one is never passed over.

    Raises
    ------
    ToolchainError
        None can. The message says what was looked at and what each lacks.
    """
    survey = survey_toolchains(environ, python=python, root=root)
    wanted = [t for t in survey.toolchains if survey.named in (None, t.python)]
    for toolchain in wanted:
        if backend in toolchain.generations:
            return toolchain
    reasons = [f"{t.python} ({t.origin}) {explain_lack(backend, t)}" for t in wanted]
    reasons += [
        f"{u.python} ({u.origin}) does not work: {u.reason}"
        for u in survey.unusable
        if survey.named in (None, u.python)
    ]
    raise ToolchainError(
        f"no Python here can run {backend}: {'; '.join(reasons) or 'none was found'}",
        hint="name the one that has the Neuron libraries with --python or "
        f"{PYTHON_VARIABLE}, or install them from {INDEX}; `neuron-artifacts toolchains list` "
        "shows them all",
    )


def explain_lack(backend: str, toolchain: Toolchain) -> str:
    """Why ``toolchain`` cannot run ``backend``, without a subject."""
    missing = missing_packages(backend, toolchain.packages)
    empty = [name for name in missing if name in toolchain.placeholders]
    absent = [name for name in missing if name not in empty]
    parts = [f"lacks {', '.join(absent)}"] if absent else []
    if empty:
        parts.append(f"has PyPI's empty placeholder of {', '.join(empty)}")
    return " and ".join(parts)


def install_command(toolchain: Toolchain) -> str:
    """What replaces PyPI's placeholders by the packages themselves."""
    names = " ".join(sorted(toolchain.placeholders))
    return f"{toolchain.python} -m pip install --upgrade --extra-index-url {INDEX} {names}"


def _ask(
    candidate: Candidate, environ: Mapping[str, str], machine: Machine
) -> Toolchain | Unusable:
    try:
        report = recall_or_probe(candidate.python, environ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Unusable(candidate.python, candidate.origin, reason, candidate.named)
    # A script that was not asked for by name would start another interpreter elsewhere.
    moved = not candidate.named and is_script(candidate.python, report)
    return Toolchain(
        python=Path(report.executable) if moved else candidate.python,
        python_version=report.python,
        packages=report.packages,
        placeholders=report.placeholders,
        devices=machine.devices,
        platform=machine.platform,
        generations=generations_of(report.packages),
        origin=candidate.origin,
    )
