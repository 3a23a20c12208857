"""The ``vllm-neuron`` backend: vLLM compiles into its cache, whose graphs become the artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import write_atomically
from neuron_artifacts.artifact import Manifest
from neuron_artifacts.backends.base import (
    BuiltDirectory,
    Estimate,
    GraphTask,
    ResolvedSpec,
    Resources,
    find_checkpoint,
)
from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.identity import (
    checkpoint_document,
    compiler_environment,
    model_document,
)
from neuron_artifacts.backends.runner import Runner
from neuron_artifacts.backends.vllm_neuron.request import (
    SHAPING_VARIABLES,
    NativeRequest,
    check_request,
    make_request,
)
from neuron_artifacts.backends.worker_backend import (
    Site,
    Watcher,
    call_worker,
    check_device,
    find_site,
    weight_tasks,
)
from neuron_artifacts.compile_caches.vllm_neuron import (
    BELOW_ROOT,
    collect_entries,
    lay_entries,
    read_entries,
)
from neuron_artifacts.errors import CompileError, IncompatibleError, ModelNotFoundError
from neuron_artifacts.events import Note, Observer
from neuron_artifacts.key import digest_of, make_key
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.spec import CompileSpec
from neuron_artifacts.store import LocalStore

WORKER = Path(__file__).with_name("worker.py")
COMPILE_CACHE = "compile_cache"
INDEX = "compile_cache.json"
"""Names the graphs of an artifact. It stands for all of them where graphs are looked up."""


@dataclass(frozen=True)
class NativeWork:
    """What resolving leaves for building."""

    site: Site
    request: NativeRequest
    environment: Mapping[str, str]


class VllmNeuronBackend:
    """Graphs that take the weights as inputs: one set serves every fine-tune."""

    name = "vllm-neuron"

    def find_model(self, spec: CompileSpec, *, weights: bool, observe: Observer) -> ModelSnapshot:
        return find_checkpoint(spec, weights=weights, observe=observe)

    def resolve(
        self, spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
    ) -> ResolvedSpec:
        request = make_request(spec, model.config)
        site = find_site(self.name, spec, environ)
        shaping = {name: environ[name] for name in SHAPING_VARIABLES if environ.get(name)}
        options = request.options("")
        del options["model"]
        graphs = {
            "backend": self.name,
            "target": site.platform.target,
            "logical_nc_config": site.platform.logical_nc_config,
            "toolchain": site.versions,
            "neuron_config": options,
            "model": model_document(model.config),
            "environment": {**compiler_environment(environ), **shaping},
        }
        key = make_key(graphs, checkpoint_document(model))
        return ResolvedSpec(
            spec=spec, model=model, backend=self.name, target=site.platform.target,
            toolchain=site.versions, neuron_config=request.summary(),
            graphs=_tasks(request, key.graphs_digest), weights=weight_tasks(model), key=key,
            estimate=Estimate(weights=0, cache=0, compile_job=0), notes=(),
            work=NativeWork(site, request, shaping),
        )  # fmt: skip

    def build_directory(
        self, resolved: ResolvedSpec, directory: Path, *, work: Path, weights_only: bool,
        observe: Observer,
    ) -> BuiltDirectory:  # fmt: skip
        own: NativeWork = resolved.work
        watcher = Watcher(resolved.graphs, observe)
        destination = directory / COMPILE_CACHE
        if not (weights_only and _borrow(resolved, destination, observe)):
            collect_entries(_compile(resolved, own, work, watcher), destination)
        keys = sorted(path.name for path in destination.iterdir())
        index = json.dumps({"compile_cache": keys}, indent=1).encode() + b"\n"
        write_atomically(directory / INDEX, index)
        return BuiltDirectory(watcher.entries(), _serve_recipe(own))

    def examine(
        self,
        resolved: ResolvedSpec,
        resources: Resources,  # noqa: ARG002
        environ: Mapping[str, str],  # noqa: ARG002
    ) -> tuple[Finding, ...]:
        own: NativeWork = resolved.work
        return tuple(check_request(own.request))

    def check_host(self, manifest: Manifest) -> list[str]:
        return check_device(self.name, manifest)

    def open_runner(
        self,
        directory: Path,
        manifest: Manifest,  # noqa: ARG002
        *,
        threads: int | None,  # noqa: ARG002
    ) -> Runner:
        raise IncompatibleError(
            f"{directory} holds graphs of vLLM, which only vLLM runs",
            hint=f"neuron-artifacts serve --engine vllm --artifacts {directory}",
        )


def _tasks(request: NativeRequest, digest: str) -> tuple[GraphTask, ...]:
    """Prefill by tokens, decode by sequences. vLLM may make more graphs than one for each."""
    phases = (
        ("context_encoding", request.prefill_buckets),
        ("token_generation", request.decode_buckets),
    )
    return tuple(
        GraphTask(
            phase, bucket, digest_of({"graphs": digest, "phase": phase, "bucket": bucket}), INDEX
        )
        for phase, buckets in phases
        for bucket in buckets
    )


def _compile(resolved: ResolvedSpec, own: NativeWork, work: Path, watcher: Watcher) -> Path:
    """Run vLLM over a cache of this build's own; gives the folder of its graphs."""
    if resolved.model.root is None:
        raise ModelNotFoundError(f"{resolved.model.name} is not on this machine")
    root = work / "cache"
    request: dict[str, Any] = {
        "action": "compile",
        "cache_root": str(root),
        "llm": own.request.options(str(resolved.model.root.absolute())),
        "graphs": [{"phase": task.phase, "bucket": task.bucket} for task in resolved.graphs],
    }
    if resolved.spec.jobs:
        request["jobs"] = resolved.spec.jobs
    call_worker(own.site, WORKER, request, directory=work, watcher=watcher)
    entries = read_entries(root / BELOW_ROOT)
    problems = [f"graph {e.key} is {e.state}: {e.problem}" for e in entries if e.problem]
    if problems or not entries:
        raise CompileError(
            problems[0] if problems else "vLLM compiled no graph",
            hint=f"its output is in {work / 'worker.log'}",
        )
    return root / BELOW_ROOT


def _borrow(resolved: ResolvedSpec, destination: Path, observe: Observer) -> bool:
    """Take the graphs of an artifact that differs in its weights only."""
    for path, manifest in LocalStore(Path(resolved.spec.store)).manifests():
        same = manifest.graphs_digest == resolved.key.graphs_digest
        if same and manifest.backend == resolved.backend:
            lay_entries(path / COMPILE_CACHE, destination)
            return True
    observe(Note("the artifact that has these graphs is not in the store; compiling them"))
    return False


def _serve_recipe(own: NativeWork) -> dict[str, Any]:
    request = own.request
    recipe: dict[str, Any] = {
        "loader": "vllm-neuron-0.21",
        "override_neuron_config": dict(request.neuron_config),
        "vllm_arguments": dict(request.arguments),
        "max_model_len": request.seq_len,
    }
    lnc = own.site.platform.logical_nc_config
    environment = {**own.environment, **({"NEURON_LOGICAL_NC_CONFIG": str(lnc)} if lnc > 1 else {})}
    if environment:
        recipe["environment"] = environment
    return recipe
