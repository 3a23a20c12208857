"""Carry a decision out: the one way an artifact comes to be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.backends.base import DirectoryBackend, GraphBackend, ResolvedSpec
from neuron_artifacts.backends.registry import get_backend
from neuron_artifacts.build.directory import DirectoryJob
from neuron_artifacts.build.examine import resolve_or_refuse
from neuron_artifacts.build.graphs import GraphJob
from neuron_artifacts.build.job import Outcome
from neuron_artifacts.build.known import refuse_known_failure, remembering_failure
from neuron_artifacts.build.lenders import holding_lenders
from neuron_artifacts.build.lookup import (
    check_build,
    destination_of,
    examine_build,
    look_up,
    needs_download,
    resolve_request,
)
from neuron_artifacts.build.progress import Clock
from neuron_artifacts.build.shared import Share, fetch_instead, give_back
from neuron_artifacts.errors import HubError
from neuron_artifacts.events import Event, Note, Observer, Waiting, ignore
from neuron_artifacts.plan import Decision
from neuron_artifacts.preflight import check_writable
from neuron_artifacts.spec import CompileSpec
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.leases import mark_used

__all__ = [
    "Outcome",
    "Share",
    "check_build",
    "compile_artifact",
    "destination_of",
    "examine_build",
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
    retry: bool = False,
    share: Share | None = None,
) -> Outcome:
    """Give the artifact for ``spec``: found, fetched, relinked, or compiled as far as it must be.

    What is known to fail is refused unless ``retry`` or ``force`` is given. ``share`` is a remote
    store to ask before anything is built. Its trouble, and that of artifacts to take graphs from,
    is told and costs a compile, nothing else.
    """
    environ = os.environ if environ is None else environ
    troubles: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Note) and event.is_trouble:
            troubles.append(event.text)
        observe(event)

    outcome = _compile(spec, environ, watch, force, skip_preflight, retry, share)
    return replace(outcome, troubles=tuple(troubles))


def _compile(
    spec: CompileSpec,
    environ: Mapping[str, str],
    observe: Observer,
    force: bool,
    skip_preflight: bool,
    retry: bool,
    share: Share | None,
) -> Outcome:
    clock = Clock(observe)
    with clock.phase("resolve"):
        # A hub model is described first: a hit must not download 140 GB to find out.
        if skip_preflight:
            resolved = resolve_request(spec, environ=environ, observe=observe, weights=False)
        else:
            resolved = resolve_or_refuse(spec, environ=environ, observe=observe)
    store = LocalStore(Path(spec.store))
    key = resolved.key.key
    destination = destination_of(spec, store, key, environ)
    with clock.phase("look up"):
        decision = look_up(resolved, store, destination, force=force)
    if _is_final(decision, destination):
        return _hit(decision, clock)
    if share and not force and decision.action != "hit":
        with clock.phase("fetch"):
            fetched = fetch_instead(share, key, store, destination, observe)
        if fetched:
            decision = look_up(resolved, store, destination)
        if fetched and _is_final(decision, destination):
            return replace(_hit(decision, clock), fetched_from=share.name)
    if not (retry or force):
        refuse_known_failure(decision)
    check_writable(destination.parent)
    if not skip_preflight:
        check_build(resolved, decision, destination, environ, observe)
    if needs_download(decision):
        with clock.phase("download"):
            resolved = _download(resolved, environ, observe)
    waits = _Waits(observe)
    with store.building(key, waits):
        store.collect_abandoned(destination)
        with clock.phase("look up"):  # somebody may have built it since we looked
            decision = look_up(resolved, store, destination, force=force and not waits.seen)
        if _is_final(decision, destination):
            return replace(_hit(decision, clock), waited=waits.seen)
        with remembering_failure(resolved, store), holding_lenders(decision, store):
            outcome = _carry_out(resolved, store, destination, decision, clock)
    if share:
        with clock.phase("push"):
            give_back(share, outcome.path, observe)
    return replace(outcome, waited=waits.seen)


def _carry_out(
    resolved: ResolvedSpec, store: LocalStore, destination: Path, decision: Decision, clock: Clock
) -> Outcome:
    backend = get_backend(resolved.backend)
    if isinstance(backend, DirectoryBackend):
        return DirectoryJob(backend, resolved, store, destination, decision, clock).run()
    if isinstance(backend, GraphBackend):
        return GraphJob(backend, resolved, store, destination, decision, clock).run()
    raise AssertionError(f"{resolved.backend} builds neither graphs nor directories")


class _Waits:
    """Tells that another process is waited for, and remembers that it was."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self.seen = False

    def __call__(self, holder: str, seconds: float) -> None:
        self.seen = True
        self._observe(Waiting(holder, seconds))


def _download(
    resolved: ResolvedSpec, environ: Mapping[str, str], observe: Observer
) -> ResolvedSpec:
    """The same request with its weights on this machine, pinned to the commit already resolved."""
    spec = replace(resolved.spec, revision=resolved.model.revision)
    here = resolve_request(spec, environ=environ, observe=observe, weights=True)
    if here.key.key != resolved.key.key:
        raise HubError(
            f"{spec.model} changed while it was downloaded", hint="run the command again"
        )
    return here


def _is_final(decision: Decision, destination: Path) -> bool:
    return decision.action == "hit" and decision.artifact == destination


def _hit(decision: Decision, clock: Clock) -> Outcome:
    if decision.artifact is None:
        raise AssertionError("a hit has an artifact")
    mark_used(decision.artifact)
    return Outcome(decision, decision.artifact, read_manifest(decision.artifact), clock.seconds)
