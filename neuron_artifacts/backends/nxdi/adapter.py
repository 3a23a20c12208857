"""The ``nxdi`` backend: defaults and key here, NxD Inference in a worker of its own interpreter."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from neuron_artifacts.backends.nxdi.adopted import summarise
from neuron_artifacts.backends.nxdi.companions import find_companions
from neuron_artifacts.backends.nxdi.drafts import draft_settings
from neuron_artifacts.backends.nxdi.fields import resolve_fields
from neuron_artifacts.backends.nxdi.identity import (
    graphs_document,
    list_graphs,
    weights_document,
)
from neuron_artifacts.backends.nxdi.inputs import (
    input_digests,
    quantization_origin,
    refuse_changes,
)
from neuron_artifacts.backends.nxdi.levels import SdkLevel, level_of_release
from neuron_artifacts.backends.nxdi.paths import with_absolute_paths
from neuron_artifacts.backends.nxdi.preflight import examine
from neuron_artifacts.backends.nxdi.request import NeuronRequest, make_request
from neuron_artifacts.backends.nxdi.servable import refuse_unservable
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
from neuron_artifacts.events import BytesMoved, Observer, ignore
from neuron_artifacts.key import digest_of, make_key
from neuron_artifacts.model import ModelSnapshot, resolve_model
from neuron_artifacts.spec import CompileSpec

WORKER = Path(__file__).with_name("worker.py")
RELEASE = "neuronx-distributed-inference"


@dataclass(frozen=True)
class NxdiWork:
    """What resolving leaves for building; ``fields`` is the finished NeuronConfig."""

    site: Site
    level: SdkLevel | None
    request: NeuronRequest
    fields: Mapping[str, Any]
    draft: ModelSnapshot | None
    inputs: Mapping[str, Any]


class NxdiBackend:
    """One ``model.pt`` with every graph, and the weights sharded for each rank."""

    name = "nxdi"
    find_model = staticmethod(find_checkpoint)

    def resolve(
        self, spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
    ) -> ResolvedSpec:
        site = find_site(self.name, spec, environ)
        level = level_of_release(site.toolchain.packages[RELEASE])
        request = make_request(
            replace(spec, extra=with_absolute_paths(spec.extra)), model.config,
            sdk=level.name if level else "",
            plugin_version=site.toolchain.packages.get("vllm-neuron"),
        )  # fmt: skip
        draft = _draft_of(request, weights=False)
        answers: list[Mapping[str, Any]] = []

        def ask() -> Mapping[str, Any]:
            answers.append(_ask(site, request, model))
            return answers[0]

        fields = resolve_fields(
            request, model.config, level, target=site.platform.target,
            environ=site.worker_environ, python=site.toolchain.python_version,
            ask=ask,
        )  # fmt: skip
        graphs = graphs_document(
            backend=self.name, target=site.platform.target, toolchain=site.versions,
            config=model.config, neuron_config={**fields, **request.multimodal},
            environ=environ, draft=draft.config if draft else None,
        )  # fmt: skip
        inputs = input_digests(model, fields)
        weights = weights_document(model, fields, draft=draft, inputs=inputs)
        key = make_key(graphs, weights)
        return ResolvedSpec(
            spec=spec, model=model, backend=self.name, target=site.platform.target,
            toolchain=site.versions, neuron_config=summarise(fields),
            graphs=_tasks(_graphs(fields, answers), key.graphs_digest), weights=weight_tasks(model),
            key=key, estimate=Estimate(weights=0, cache=0, compile_job=0), notes=(),
            work=NxdiWork(site, level, request, fields, draft, inputs),
        )  # fmt: skip

    def build_directory(
        self, resolved: ResolvedSpec, directory: Path, *, work: Path, weights_only: bool,
        observe: Observer,
    ) -> BuiltDirectory:  # fmt: skip
        own: NxdiWork = resolved.work
        watcher = Watcher(resolved.graphs, observe)
        request = {
            **_model_request(own.request, resolved.model, resolved.spec.model),
            "action": "shard" if weights_only else "compile",
            "output": str(directory),
        }
        draft = _draft_of(own.request, weights=True, observe=observe)
        if draft is not None:
            request["draft"] = _draft_request(own.request, draft)
        if request.get("quantize"):
            request["quantize"] = quantization_origin(resolved.model, own.fields)
        result = call_worker(own.site, WORKER, request, directory=work, watcher=watcher)
        refuse_changes(
            [resolved.model, *([own.draft] if own.draft else [])],
            own.inputs, input_digests(resolved.model, own.fields),
        )  # fmt: skip
        return BuiltDirectory(
            watcher.entries(), _serve_recipe(own, result), find_companions(own.fields, draft),
            reads_checkpoint=not own.fields.get("quantized"),
        )  # fmt: skip

    def examine(
        self, resolved: ResolvedSpec, resources: Resources, environ: Mapping[str, str]
    ) -> tuple[Finding, ...]:
        own: NxdiWork = resolved.work
        return examine(
            resolved.model, own.fields, raw=own.request.arguments, level=own.level,
            platform=own.site.platform, draft=own.draft, environ=environ, resources=resources,
        )  # fmt: skip

    def check_host(self, manifest: Manifest) -> list[str]:
        return check_device(self.name, manifest)

    def open_runner(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        threads: int | None,  # noqa: ARG002
    ) -> Runner:
        refuse_unservable(directory, manifest)
        request = {"model": str(directory.absolute())}
        return serve_with_worker(self.name, WORKER, directory, manifest, request)


def _ask(site: Site, request: NeuronRequest, model: ModelSnapshot) -> Mapping[str, Any]:
    """The configuration that NxD Inference itself makes of the request."""
    body = {**_model_request(request, model, model.source), "action": "hash", "graphs": True}
    with tempfile.TemporaryDirectory(prefix="neuron-artifacts-") as directory:
        return call_worker(
            site, WORKER, body, directory=Path(directory), watcher=Watcher((), ignore)
        )


def _model_request(request: NeuronRequest, model: ModelSnapshot, name: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": str(local_folder(model)),
        "name_or_path": name,
        "neuron_config": dict(request.arguments),
        **request.multimodal,
    }
    if request.arguments.get("quantized"):
        path = request.arguments.get("quantized_checkpoints_path")
        body["quantize"] = not path or not Path(path).exists()
    return body


def _draft_of(request: NeuronRequest, *, weights: bool, observe: Observer = ignore) -> Any:
    if request.speculation is None:
        return None
    return resolve_model(
        request.speculation.model, weights=weights,
        progress=lambda name, done, total: observe(BytesMoved(f"downloading {name}", done, total)),
    )  # fmt: skip


def _draft_request(request: NeuronRequest, draft: ModelSnapshot) -> dict[str, Any]:
    name = request.speculation.model if request.speculation else draft.name
    return {
        "model": str(local_folder(draft)), "name_or_path": name,
        **draft_settings(request.loader, request.arguments, request.override),
    }  # fmt: skip


def _graphs(
    fields: Mapping[str, Any], answers: list[Mapping[str, Any]]
) -> tuple[tuple[str, int, str], ...]:
    """Phase, bucket and file of each: as the library itself tells, where it was asked."""
    if not answers:
        return tuple((phase, bucket, "model.pt") for phase, bucket in list_graphs(fields))
    told = [
        (entry["phase"].removesuffix("_model"), entry["bucket"], entry["file"])
        for entry in answers[0]["graphs"]
    ]
    return tuple(dict.fromkeys(told))  # those of one length count as one, as in list_graphs


def _tasks(graphs: tuple[tuple[str, int, str], ...], digest: str) -> tuple[GraphTask, ...]:
    return tuple(
        GraphTask(
            phase, bucket, digest_of({"graphs": digest, "phase": phase, "bucket": bucket}), file
        )
        for phase, bucket, file in graphs
    )


def _serve_recipe(own: NxdiWork, result: Mapping[str, Any]) -> dict[str, Any]:
    """What serving takes beyond the directory; ``md5`` is the name vLLM would give it."""
    fields, request = own.fields, own.request
    length = fields["seq_len"] - (fields.get("speculation_length") or 0)
    recipe: dict[str, Any] = {
        "max_model_len": min(length, summarise(fields).max_model_len),
        "loader": request.loader,
        "override_neuron_config": dict(request.override),
        "ranks": {"start": fields["start_rank_id"], "count": fields["local_ranks_size"]},
        "md5": result.get("md5"),
    }
    if request.speculation is not None:
        recipe["speculation"] = {
            "model": request.speculation.model,
            "num_tokens": request.speculation.num_tokens,
            "method": request.speculation.method,
        }
    return recipe
