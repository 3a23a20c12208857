"""The ``optimum`` backend: optimum-neuron's export, or a repository that was exported before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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
from neuron_artifacts.backends.worker_backend import (
    Site,
    Watcher,
    call_worker,
    check_device,
    find_site,
    local_folder,
    serve_with_worker,
    weight_tasks,
)
from neuron_artifacts.errors import ModelFormatError, RefusedError, SpecError
from neuron_artifacts.events import Observer
from neuron_artifacts.key import digest_of, make_key
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.model.snapshot import read_json
from neuron_artifacts.neuron_config import NeuronConfig
from neuron_artifacts.spec import CompileSpec

WORKER = Path(__file__).with_name("worker.py")
DEFAULT_SEQ_LEN = 2048
_COMPILED = ("model*.pt", "checkpoint/*", "compiled/*")


@dataclass(frozen=True)
class OptimumWork:
    """What resolving leaves for building: where, what for, and whether it exists already."""

    site: Site
    wanted: Mapping[str, Any]
    is_exported: bool


class OptimumBackend:
    """optimum-neuron writes graphs and shards; one graph for each phase, at its largest size."""

    name = "optimum"

    def find_model(self, spec: CompileSpec, *, weights: bool, observe: Observer) -> ModelSnapshot:
        """A checkpoint; else a hub repository that was exported before, whose files stay there."""
        try:
            return find_checkpoint(spec, weights=weights, observe=observe)
        except ModelFormatError:
            from neuron_artifacts.model.hub import describe_compiled_repository

            if Path(spec.model).expanduser().exists():
                raise
            found = describe_compiled_repository(spec.model, _is_compiled, spec.revision)
            if found is None:
                raise
            return found

    def resolve(
        self, spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
    ) -> ResolvedSpec:
        _refuse(spec)
        site = find_site(self.name, spec, environ)
        is_exported = not model.tensors
        config = (
            _exported_configuration(spec, model) if is_exported else _configuration(spec, model)
        )
        wanted = _wanted(spec, config, is_exported)
        graphs = {
            "backend": self.name,
            "target": site.platform.target,
            "toolchain": site.versions,
            "neuron_config": wanted,
            "model": model_document(model.config),
            "environment": compiler_environment(environ),
        }
        if is_exported:  # its graphs are what its files are
            graphs["exported"] = {f.name: model.sha256(f) for f in model.weight_files}
        key = make_key(graphs, checkpoint_document(model))
        return ResolvedSpec(
            spec=spec, model=model, backend=self.name, target=site.platform.target,
            toolchain=site.versions, neuron_config=config,
            graphs=_tasks(config, wanted, key.graphs_digest),
            weights=() if is_exported else weight_tasks(model), key=key,
            estimate=Estimate(weights=0, cache=0, compile_job=0), notes=(),
            work=OptimumWork(site, wanted, is_exported),
        )  # fmt: skip

    def build_directory(
        self, resolved: ResolvedSpec, directory: Path, *, work: Path, weights_only: bool,
        observe: Observer,
    ) -> BuiltDirectory:  # fmt: skip
        own: OptimumWork = resolved.work
        watcher = Watcher(resolved.graphs, observe)
        model = resolved.model
        request: dict[str, Any] = {"target": resolved.target, "output": str(directory)}
        if own.is_exported:
            request |= {"action": "fetch", "model": model.name, "revision": model.revision}
        else:
            request |= {
                "action": "shard" if weights_only else "export",
                "model": str(local_folder(model)),
                "neuron_config": dict(own.wanted),
            }
        result = call_worker(own.site, WORKER, request, directory=work, watcher=watcher)
        return BuiltDirectory(watcher.entries(), _serve_recipe(result))

    def examine(
        self,
        resolved: ResolvedSpec,
        resources: Resources,  # noqa: ARG002
        environ: Mapping[str, str],
    ) -> tuple[Finding, ...]:
        """A model that would be compiled from scratch must be allowed to."""
        own: OptimumWork = resolved.work
        if own.is_exported:
            return (Finding("note", "pre-exported", f"{resolved.model.name} is compiled already"),)
        try:
            admission = _admit(resolved, environ)
        except RefusedError as error:
            return (Finding("error", "not-cached", error.message, error.hint),)
        return (Finding("note", "admitted", admission),)

    def check_host(self, manifest: Manifest) -> list[str]:
        return check_device(self.name, manifest)

    def open_runner(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        threads: int | None,  # noqa: ARG002
    ) -> Runner:
        return serve_with_worker(self.name, WORKER, directory, manifest, {})


def _admit(resolved: ResolvedSpec, environ: Mapping[str, str]) -> str:
    """Ask the caches for exactly this configuration, unless compiling is allowed anyway."""
    from neuron_artifacts.compile_caches.persistent import locate_cache
    from neuron_artifacts.neuron_cache import CacheOptions
    from neuron_artifacts.neuron_cache.client import Hub
    from neuron_artifacts.neuron_cache.gate import may_compile
    from neuron_artifacts.neuron_cache.inquiry import Inquiry, request_of

    spec, own = resolved.spec, resolved.work
    if spec.allow_compile:
        return "compiling from scratch is allowed"
    wanted, versions = own.wanted, own.site.versions
    request = replace(
        request_of(spec), batch_size=wanted["batch_size"], tp_degree=wanted["tp_degree"],
        sequence_length=wanted["sequence_length"], dtype=wanted["torch_dtype"],
        target=resolved.target, speculation_length=wanted.get("speculation_length", 0),
    )  # fmt: skip
    options = CacheOptions(
        release=versions.get("optimum-neuron"), compiler=versions.get("neuronx-cc"),
        task="text-generation",
    )  # fmt: skip
    inquiry = Inquiry(spec.model, request, Hub(), revision=spec.revision, options=options)
    admission = may_compile(inquiry.ask(locate_cache(environ).path), allow_compile=False)
    return f"{admission.source or spec.model}: {admission.reason}"


def _refuse(spec: CompileSpec) -> None:
    for name in (
        "speculative_model", "speculative_method", "vllm_loader",
        "context_encoding_buckets", "token_generation_buckets",
    ):  # fmt: skip
        if getattr(spec, name):
            raise RefusedError(
                f"{name} means nothing to the optimum backend",
                hint="remove it, or use nxdi",
                options=(name,),
            )


def _configuration(spec: CompileSpec, model: ModelSnapshot) -> NeuronConfig:
    text = model.config.get("text_config")
    inner = text if isinstance(text, Mapping) else model.config
    limit = inner.get("max_position_embeddings")
    seq_len = spec.seq_len or (min(limit, DEFAULT_SEQ_LEN) if isinstance(limit, int) else 0)
    if not seq_len:
        raise SpecError("config.json names no max_position_embeddings", hint="give --seq-len")
    context = spec.max_context_length or seq_len
    dtype = spec.torch_dtype
    if dtype == "auto":
        dtype = str(inner.get("torch_dtype") or inner.get("dtype") or "bfloat16")
    return NeuronConfig(
        tp_degree=spec.tp_degree, batch_size=spec.batch_size, seq_len=seq_len,
        max_context_length=context, enable_bucketing=False,
        context_encoding_buckets=(context,), token_generation_buckets=(seq_len,),
        torch_dtype=dtype,
    )  # fmt: skip


def _exported_configuration(spec: CompileSpec, model: ModelSnapshot) -> NeuronConfig:
    """What a repository was exported for. Asking for something else is a contradiction.

    Raises
    ------
    SpecError
        The request asks for something else.
    ModelFormatError
        Its ``neuron_config.json`` is missing or malformed.
    """
    body = read_json((model.root or Path()) / "neuron_config.json")
    asked = {"batch_size": spec.batch_size, "sequence_length": spec.seq_len,
             "tp_degree": spec.tp_degree}  # fmt: skip
    for (name, value), option in zip(
        asked.items(), ("batch_size", "seq_len", "tp_degree"), strict=True
    ):
        if not isinstance(body.get(name), int):
            raise ModelFormatError(f"{model.name}: neuron_config.json has no {name}")
        if spec.origins[option] != "default" and value != body[name]:
            raise SpecError(
                f"{model.name} was exported with {name} {body[name]}, not {value}",
                hint=f"leave {option} out, or export a checkpoint",
                options=(option,),
            )
    length = body["sequence_length"]
    context = body.get("max_context_length")
    context = context if isinstance(context, int) else length
    return NeuronConfig(
        tp_degree=body["tp_degree"], batch_size=body["batch_size"], seq_len=length,
        max_context_length=context, enable_bucketing=False, context_encoding_buckets=(context,),
        token_generation_buckets=(length,), torch_dtype=str(body.get("torch_dtype", "bfloat16")),
    )  # fmt: skip


def _wanted(spec: CompileSpec, config: NeuronConfig, is_exported: bool) -> dict[str, Any]:
    """The arguments of optimum-neuron's NxDNeuronConfig; slots are filled continuously."""
    if is_exported:
        return {}
    wanted: dict[str, Any] = {
        "batch_size": config.batch_size,
        "sequence_length": config.seq_len,
        "tp_degree": config.tp_degree,
        "torch_dtype": config.torch_dtype,
        "continuous_batching": config.batch_size > 1,
    }
    if spec.max_context_length is not None:
        wanted["max_context_length"] = spec.max_context_length
    if spec.num_speculative_tokens is not None:
        wanted["speculation_length"] = spec.num_speculative_tokens
        wanted["on_device_sampling"] = False  # the library refuses both (backend/config.py:112)
    return {**wanted, **spec.extra}


def _tasks(config: NeuronConfig, wanted: Mapping[str, Any], digest: str) -> tuple[GraphTask, ...]:
    phases = [
        ("context_encoding", config.max_context_length),
        ("token_generation", config.seq_len),
    ]
    if wanted.get("speculation_length"):
        phases.append(("speculation", config.seq_len))
    return tuple(
        GraphTask(
            phase, bucket, digest_of({"graphs": digest, "phase": phase, "bucket": bucket}),
            "model.pt",
        )
        for phase, bucket in phases
    )  # fmt: skip


def _serve_recipe(result: Mapping[str, Any]) -> dict[str, Any]:
    neuron = result.get("neuron_config")
    recipe: dict[str, Any] = {"loader": "optimum"}
    if isinstance(neuron, Mapping):
        if isinstance(neuron.get("sequence_length"), int):
            recipe["max_model_len"] = neuron["sequence_length"]
        if isinstance(neuron.get("batch_size"), int):
            recipe["max_num_seqs"] = neuron["batch_size"]
    return recipe


def _is_compiled(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _COMPILED)
