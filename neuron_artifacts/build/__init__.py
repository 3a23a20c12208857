"""Carry a decision out: the one way an artifact comes to be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.build.job import BuildJob, Outcome
from neuron_artifacts.build.lookup import (
    ARTIFACTS_VARIABLE,
    destination_of,
    look_up,
    resolve_request,
)
from neuron_artifacts.build.progress import Clock
from neuron_artifacts.events import Observer, Waiting, ignore
from neuron_artifacts.plan import Decision
from neuron_artifacts.preflight import check_writable
from neuron_artifacts.spec import CompileSpec
from neuron_artifacts.store import LocalStore

__all__ = [
    "ARTIFACTS_VARIABLE",
    "Outcome",
    "compile_artifact",
    "destination_of",
    "look_up",
    "resolve_request",
]


def compile_artifact(
    spec: CompileSpec,
    *,
    environ: Mapping[str, str] | None = None,
    observe: Observer = ignore,
    force: bool = False,
    skip_preflight: bool = False,
) -> Outcome:
    """Give the artifact for ``spec``: found, relinked, or compiled as far as it must be."""
    environ = os.environ if environ is None else environ
    clock = Clock(observe)
    with clock.phase("resolve"):
        resolved = resolve_request(spec, environ=environ, observe=observe)
        store = LocalStore(Path(spec.store))
        key = resolved.key.key
        destination = destination_of(spec, store, key, environ)
    with clock.phase("look up"):
        decision = look_up(resolved, store, destination, force=force)
    if _is_final(decision, destination):
        return _hit(decision, clock)
    check_writable(destination.parent)
    waited = False

    def on_wait(holder: str, seconds: float) -> None:
        nonlocal waited
        waited = True
        observe(Waiting(holder, seconds))

    with store.building(key, on_wait):
        store.collect_abandoned(destination)
        if waited:  # whoever held the lock has most likely built it meanwhile
            with clock.phase("look up"):
                decision = look_up(resolved, store, destination, force=False)
            if _is_final(decision, destination):
                return replace(_hit(decision, clock), waited=True)
        job = BuildJob(resolved, store, destination, decision, clock, skip_preflight)
        return replace(job.run(), waited=waited)


def _is_final(decision: Decision, destination: Path) -> bool:
    return decision.action == "hit" and decision.artifact == destination


def _hit(decision: Decision, clock: Clock) -> Outcome:
    if decision.artifact is None:
        raise AssertionError("a hit has an artifact")
    return Outcome(decision, decision.artifact, read_manifest(decision.artifact), clock.seconds)
