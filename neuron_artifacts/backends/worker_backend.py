"""What the Neuron backends share: an interpreter that has the libraries, and a worker in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts.artifact import GraphEntry, Manifest
from neuron_artifacts.artifact.manifest import UNKNOWN
from neuron_artifacts.backends.base import GraphTask, WeightTask
from neuron_artifacts.backends.worker_runner import WorkerRunner, open_runner
from neuron_artifacts.errors import ModelNotFoundError, ToolchainError
from neuron_artifacts.events import GraphChanged, Observer
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.spec import CompileSpec
from neuron_artifacts.toolchain import Toolchain, choose_toolchain
from neuron_artifacts.toolchain.interpreters import PYTHON_VARIABLE
from neuron_artifacts.toolchain.platforms import HARDWARE, Platform, resolve_platform
from neuron_artifacts.worker import WorkerEvent, open_worker, run_worker

log = logging.getLogger(__name__)
_LNC_NAMES = ("logical_nc_config", "logical_neuron_cores")


@dataclass(frozen=True)
class Site:
    """Where a worker runs, and for which device it compiles."""

    backend: str
    toolchain: Toolchain
    platform: Platform
    environ: Mapping[str, str]

    @property
    def versions(self) -> dict[str, str]:
        """The versions that are part of the key."""
        return dict(self.toolchain.document(self.backend))

    @property
    def worker_environ(self) -> dict[str, str]:
        return {**self.environ, **self.platform.environ}


def find_site(backend: str, spec: CompileSpec, environ: Mapping[str, str]) -> Site:
    """The interpreter that can run ``backend``, and the platform to compile for.

    How many physical cores make a logical one may be said in ``override_neuron_config`` too.

    Raises
    ------
    ToolchainError
        No interpreter has the libraries.
    RefusedError
        This host has no device, and no target was named.
    """
    # The option has the variable's value where only that is set: it is to be named by its name.
    named = None if environ.get(PYTHON_VARIABLE) == spec.python else spec.python
    toolchain = choose_toolchain(backend, environ, python=named)
    asked = [spec.extra[name] for name in _LNC_NAMES if spec.extra.get(name) is not None]
    platform = resolve_platform(
        spec.target, toolchain, environ, logical_nc_config=asked[0] if asked else None
    )
    return Site(backend, toolchain, platform, environ)


def call_worker(
    site: Site, worker: Path, request: Mapping[str, Any], *, directory: Path, watcher: Watcher
) -> Mapping[str, Any]:
    """Run one request in ``directory``, told as events, and give its result."""
    return run_worker(
        site.toolchain.python, worker, request, directory=directory,
        environ=site.worker_environ, observe=watcher.see,
    )  # fmt: skip


def serve_with_worker(
    backend: str, worker: Path, directory: Path, manifest: Manifest, request: Mapping[str, Any]
) -> WorkerRunner:
    """Load an artifact in the interpreter that can, and forward the engine's calls to it.

    Raises
    ------
    ToolchainError
        No interpreter has the libraries.
    ServeError
        The library did not load it.
    """
    toolchain = choose_toolchain(backend, os.environ)
    changed = changed_versions(toolchain.document(backend), manifest.toolchain)
    if changed:  # newer runtimes take older graphs, so this is advice; see neuron_host.judge
        log.warning("compiled with %s: if it does not load, compile it again", changed)
    target = "native" if manifest.target == UNKNOWN else manifest.target
    platform = resolve_platform(
        target, toolchain, os.environ, logical_nc_config=_logical_nc_config(manifest)
    )
    environ = {**os.environ, **platform.environ}
    body = {**request, "action": "serve", "output": str(directory.absolute())}
    return open_runner(open_worker(toolchain.python, worker, body, environ=environ))


def _logical_nc_config(manifest: Manifest) -> int | None:
    """What the graphs were compiled for: the device must be set up the same way."""
    fields = manifest.document["graphs"].get("neuron_config", {})
    value = fields.get("logical_nc_config") if isinstance(fields, dict) else None
    return value if isinstance(value, int) else None


def check_device(backend: str, manifest: Manifest) -> list[str]:
    """What keeps the device of this host, where there is one, from running the artifact."""
    try:
        found = choose_toolchain(backend, os.environ).platform
    except ToolchainError:
        return []  # a build host may hold artifacts it cannot run
    if found is None or manifest.target == UNKNOWN:
        return []
    if HARDWARE.get(found) == HARDWARE.get(manifest.target):
        return []
    return [f"built for {manifest.target}, and this host has {found}"]


def local_folder(model: ModelSnapshot) -> Path:
    """Where a worker, which has a working directory of its own, finds a model.

    Raises
    ------
    ModelNotFoundError
        It is not on this machine.
    """
    if model.root is None:
        raise ModelNotFoundError(f"{model.name} is not on this machine")
    return model.root.absolute()


def weight_tasks(model: ModelSnapshot) -> tuple[WeightTask, ...]:
    """The checkpoint as it is: a library shards it, or reads it beside its graphs."""
    return tuple(WeightTask(file, None, (model.sha256(file), None)) for file in model.weight_files)


class Watcher:
    """Tells a worker's events on, and remembers what compiling each graph took."""

    def __init__(self, tasks: Sequence[GraphTask], observe: Observer) -> None:
        self._tasks, self._observe = tasks, observe
        self._seconds: dict[tuple[str, int], float] = {}

    def see(self, event: WorkerEvent) -> None:
        told = event.as_event()
        if isinstance(told, GraphChanged):
            told = replace(told, phase=told.phase.removesuffix("_model"))
            if told.state == "compiled":
                self._seconds[told.phase, told.bucket] = round(told.seconds or 0.0, 3)
        self._observe(told)

    def entries(self) -> tuple[GraphEntry, ...]:
        """Every task as the manifest lists it. Peak memory is the library's own secret."""
        return tuple(
            GraphEntry(
                task.phase, task.bucket, task.file, task.digest,
                self._seconds.get((task.phase, task.bucket), 0.0), 0,
            )
            for task in self._tasks
        )  # fmt: skip


def changed_versions(here: Mapping[str, str], there: Mapping[str, Any]) -> str:
    """The versions of ``there`` that are others ``here``, in words; empty where there are none."""
    return ", ".join(
        f"{name} {version} (here: {here.get(name, 'none')})"
        for name, version in sorted(there.items())
        if version not in (UNKNOWN, here.get(name))
    )
