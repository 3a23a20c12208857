"""The ``cpu`` backend behind the port: defaults, key document, compile, check, run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import user_cache_dir
from neuron_artifacts.artifact import Manifest
from neuron_artifacts.backends import compiles
from neuron_artifacts.backends.base import (
    Estimate,
    GraphCost,
    GraphTask,
    ResolvedSpec,
    WeightTask,
    find_checkpoint,
)
from neuron_artifacts.backends.cpu import targets
from neuron_artifacts.backends.cpu.arch import (
    GRAPH_FIELDS,
    IRRELEVANT_FIELDS,
    SERVING_FIELDS,
    Arch,
    parse_arch,
)
from neuron_artifacts.backends.cpu.compiler import Compiler, compile_graph, find_compiler
from neuron_artifacts.backends.cpu.emit import emit
from neuron_artifacts.backends.cpu.ir import Compute, Phase, Storage
from neuron_artifacts.backends.cpu.lower import lower
from neuron_artifacts.backends.cpu.neuron_config import resolve_neuron_config
from neuron_artifacts.backends.cpu.targets import Target, resolve_target
from neuron_artifacts.backends.cpu.weights import (
    check_tensors,
    choose_storage,
    plan_files,
)
from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.runner import Runner
from neuron_artifacts.errors import IncompatibleError
from neuron_artifacts.key import digest_of, make_key
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.model.snapshot import SAVE_TOKENIZER, TOKENIZER_NAME
from neuron_artifacts.neuron_config import NeuronConfig
from neuron_artifacts.spec import CompileSpec

PHASES: tuple[Phase, Phase] = ("context_encoding", "token_generation")
COMPILE_JOB_BYTES = 400 << 20
"""Memory one compiler process is planned with; the benchmarks measure about half of it."""


@dataclass(frozen=True)
class CpuWork:
    """What resolving leaves for compiling: a source per graph, and who compiles it."""

    arch: Arch
    target: Target
    compiler: Compiler
    storage: Storage
    sources: Mapping[str, str]


class CpuBackend:
    """Generated C, one shared object per phase and bucket, weights mapped from safetensors."""

    name = "cpu"
    find_model = staticmethod(find_checkpoint)

    def resolve(
        self, spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
    ) -> ResolvedSpec:
        arch = parse_arch(model.config)
        check_tensors(arch, model.all_tensors)
        config, notes = resolve_neuron_config(spec, arch, model)
        target = resolve_target(spec.target)
        compiler = find_compiler(target, environ, user_cache_dir() / "compilers")
        storage = choose_storage(model.all_tensors, _compute(config))
        toolchain = compiler.document()
        sources, graphs = _graphs(arch, config, target, storage, toolchain)
        weights = _weight_tasks(arch, model, _compute(config), storage)
        key = make_key(
            _graphs_document(arch, model.config, config, target, toolchain, graphs),
            _weights_document(model, weights),
        )
        return ResolvedSpec(
            spec=spec, model=model, backend=self.name, target=target.name, toolchain=toolchain,
            neuron_config=config, graphs=graphs, weights=weights, key=key,
            estimate=_estimate(arch, config, model, storage), notes=notes,
            work=CpuWork(arch, target, compiler, storage, sources),
        )  # fmt: skip

    def compile_graph(
        self, resolved: ResolvedSpec, task: GraphTask, destination: Path
    ) -> GraphCost:
        work: CpuWork = resolved.work
        compiles.record()
        began = time.monotonic()
        peak = compile_graph(work.compiler, work.target, work.sources[task.digest], destination)
        return GraphCost(round(time.monotonic() - began, 3), peak)

    def convert_weights(self, resolved: ResolvedSpec, task: WeightTask, destination: Path) -> None:
        from neuron_artifacts.backends.cpu.convert import convert_file

        if task.source.path is None:
            raise AssertionError("weights are downloaded before they are converted")
        convert_file(task.source.path, destination, resolved.work.storage)

    def examine(self, resolved: ResolvedSpec, *_: object) -> tuple[Finding, ...]:
        """What our server will lack; disk and memory are measured for every backend."""
        if any(file.name == TOKENIZER_NAME for file in resolved.model.asset_files):
            return ()
        message = f"{resolved.model.name} has no {TOKENIZER_NAME}, without which nothing serves it"
        return (Finding("warning", "tokenizer", message, SAVE_TOKENIZER),)

    def check_host(self, manifest: Manifest) -> list[str]:
        try:
            target = resolve_target(manifest.target)
        except Exception as error:  # noqa: BLE001 - any trouble with the name means the same
            return [f"target {manifest.target!r} is unknown to this version ({error})"]
        missing = targets.missing_features(target)
        if not missing:
            return []
        return [f"built for {target.name}, and this CPU lacks {', '.join(missing)}"]

    def open_runner(self, directory: Path, manifest: Manifest, *, threads: int | None) -> Runner:
        from neuron_artifacts.backends.cpu.runner import CpuRunner
        from neuron_artifacts.model.snapshot import CONFIG_NAME, read_json

        reasons = self.check_host(manifest)
        if reasons:  # the last gate before foreign instructions run
            raise IncompatibleError(f"{directory}: {reasons[0]}")
        config = manifest.neuron_config
        return CpuRunner.open(
            graphs={(g.phase, g.bucket): directory / g.file for g in manifest.graphs},
            weights=[directory / f.path for f in manifest.files if f.role == "weights"],
            arch=parse_arch(read_json(directory / CONFIG_NAME)),
            batch_size=config["batch_size"],
            seq_len=config["seq_len"],
            max_context_length=config["max_context_length"],
            compute=config["torch_dtype"],
            threads=threads,
        )


def _compute(config: NeuronConfig) -> Compute:
    return "bfloat16" if config.torch_dtype == "bfloat16" else "float32"


def _graphs(
    arch: Arch, config: NeuronConfig, target: Target, storage: Storage, toolchain: Mapping[str, Any]
) -> tuple[dict[str, str], tuple[GraphTask, ...]]:
    buckets = (config.context_encoding_buckets, config.token_generation_buckets)
    sources: dict[str, str] = {}
    tasks = []
    for phase, lengths in zip(PHASES, buckets, strict=True):
        for bucket in lengths:
            graph = lower(
                arch, phase, bucket, batch_size=config.batch_size, storage=storage,
                compute=_compute(config), target=target,
            )  # fmt: skip
            source = emit(graph)
            digest = digest_of(
                {
                    "source": hashlib.sha256(source.encode()).hexdigest(),
                    "target": target.name,
                    "flags": list(target.flags(toolchain["compiler"])),
                    "toolchain": toolchain,
                }
            )
            sources[digest] = source
            tasks.append(GraphTask(phase, bucket, digest, f"graphs/{phase}-{bucket}.so"))
    return sources, tuple(tasks)


def _weight_tasks(
    arch: Arch, model: ModelSnapshot, compute: Compute, storage: Storage
) -> tuple[WeightTask, ...]:
    files = {file.name: file for file in model.weight_files}
    tasks = []
    for planned in plan_files(arch, model.tensors, compute):
        file = files[planned.name]
        stored_as = storage if planned.action == "convert" else None
        tasks.append(WeightTask(file, stored_as, (model.sha256(file), stored_as)))
    return tuple(tasks)


def _graphs_document(
    arch: Arch,
    raw: Mapping[str, Any],
    config: NeuronConfig,
    target: Target,
    toolchain: Mapping[str, Any],
    graphs: tuple[GraphTask, ...],
) -> dict[str, Any]:
    known = {*GRAPH_FIELDS, *SERVING_FIELDS, *IRRELEVANT_FIELDS}
    return {
        "backend": "cpu",
        "target": target.name,
        "toolchain": dict(toolchain),
        "neuron_config": config.document(),
        "model": asdict(arch),
        # A field nobody has judged yet may shape a graph: it costs a compile, not a wrong answer.
        "unrecognised": {name: raw[name] for name in sorted(raw) if name not in known},
        "graphs": {f"{task.phase}-{task.bucket}": task.digest for task in graphs},
    }


def _weights_document(model: ModelSnapshot, weights: tuple[WeightTask, ...]) -> dict[str, Any]:
    files: dict[str, dict[str, str]] = {}
    for task in weights:
        sha256, stored_as = task.identity
        files[task.source.name] = {"sha256": sha256}
        if stored_as:
            files[task.source.name]["stored_as"] = stored_as
    return {
        "files": files,
        "assets": {file.name: model.sha256(file) for file in model.asset_files},
        "serving": {
            name: model.config[name]
            for name in SERVING_FIELDS
            if model.config.get(name) is not None
        },
    }


def _estimate(arch: Arch, config: NeuronConfig, model: ModelSnapshot, storage: str) -> Estimate:
    width = 4 if config.torch_dtype == "float32" else 2
    per_position = 2 * arch.num_layers * arch.num_kv_heads * arch.head_dim * width
    stored = {"F32": 4, "BF16": 2, "F16": 2}[storage]
    elements = sum(_elements(info.shape) for info in model.all_tensors.values())
    return Estimate(
        weights=min(model.weight_bytes, elements * 4) if stored == 4 else elements * stored,
        cache=per_position * config.seq_len * config.batch_size,
        compile_job=COMPILE_JOB_BYTES,
    )


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count
