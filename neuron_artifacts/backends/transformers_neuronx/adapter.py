"""The ``transformers-neuronx`` backend (legacy): the configuration as vLLM's loader makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts._files import shorten
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
from neuron_artifacts.errors import RefusedError, SpecError
from neuron_artifacts.events import Observer
from neuron_artifacts.key import digest_of, make_key
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.neuron_config import NeuronConfig, check_buckets
from neuron_artifacts.spec import CompileSpec

WORKER = Path(__file__).with_name("worker.py")
DEFAULT_SEQ_LEN = 2048

_BUCKET_VARIABLES = {
    "context_encoding_buckets": "NEURON_CONTEXT_LENGTH_BUCKETS",
    "token_generation_buckets": "NEURON_TOKEN_GEN_BUCKETS",
}
_VARIABLES = (
    "NEURON_QUANT_DTYPE",
    "NEURON_ON_DEVICE_SAMPLING_DISABLED",
    "NEURON_VOCAB_PAD_DIVISOR",
)
"""What vLLM's loader and the library read beside the compiler's own variables."""

_FIELDS = frozenset({
    "all_reduce_dtype", "attention_layout", "attn_output_transposed", "bf16_rms_norm",
    "cache_layout", "cast_logits_dtype", "collectives_layout", "compilation_worker_count",
    "continuous_batching", "duplicate_q_weight_sos", "fuse_mlp", "fuse_qkv", "fused_rmsnorm_mlp",
    "fused_rmsnorm_qkv", "group_query_attention", "has_pre_attention_norm", "is_eagle_draft",
    "is_eagle_target", "kv_cache_quant", "lhs_aligned", "log_softmax_scores",
    "mlp_in_weight_tiling_permute_order", "mlp_out_weight_tiling_permute_order",
    "mlp_out_weight_transpose", "on_device_embedding", "on_device_generation",
    "output_all_logits", "padding_side", "qkv_tiling", "quant", "quantization",
    "sequence_parallel_norm", "sequence_parallel_norm_threshold", "shard_over_sequence",
    "sparse_attn", "use_2d_cache_ids", "weight_tiling",
})  # fmt: skip
"""What NeuronConfig of transformers-neuronx 0.13 takes (``transformers_neuronx/config.py:206``),
and vLLM's own ``quantization``. It refuses anything else, once everything is loaded."""


@dataclass(frozen=True)
class LegacyWork:
    """What resolving leaves for building."""

    site: Site
    request: Mapping[str, Any]


class TransformersNeuronxBackend:
    """Graphs as files named by a hash only the library can make; weights stay a checkpoint."""

    name = "transformers-neuronx"
    find_model = staticmethod(find_checkpoint)

    def resolve(
        self, spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
    ) -> ResolvedSpec:
        _refuse(spec)
        site = find_site(self.name, spec, environ)
        config = _configuration(spec, model, environ)
        request = _request(spec, config)
        graphs = {
            "backend": self.name,
            "target": site.platform.target,
            "toolchain": site.versions,
            "neuron_config": {**config.document(), "request": request},
            "model": model_document(model.config),
            "environment": {
                **compiler_environment(environ),
                **{name: environ[name] for name in _VARIABLES if environ.get(name)},
            },
        }
        key = make_key(graphs, checkpoint_document(model))
        return ResolvedSpec(
            spec=spec, model=model, backend=self.name, target=site.platform.target,
            toolchain=site.versions, neuron_config=config, graphs=_tasks(config, key.key),
            weights=weight_tasks(model), key=key,
            estimate=Estimate(weights=0, cache=0, compile_job=0), notes=(),
            work=LegacyWork(site, request),
        )  # fmt: skip

    def build_directory(
        self, resolved: ResolvedSpec, directory: Path, *, work: Path, weights_only: bool,
        observe: Observer,
    ) -> BuiltDirectory:  # fmt: skip
        if weights_only:
            raise AssertionError("its graphs are never reused: which is which, nobody knows")
        own: LegacyWork = resolved.work
        watcher = Watcher(resolved.graphs, observe)
        request = {
            **own.request,
            "action": "compile",
            "model": str(local_folder(resolved.model)),
            "output": str(directory),
            "device": own.site.toolchain.platform is not None,
            "jobs": resolved.spec.jobs,
        }
        call_worker(own.site, WORKER, request, directory=work, watcher=watcher)
        return BuiltDirectory(watcher.entries(), {"loader": None})

    def examine(
        self,
        resolved: ResolvedSpec,
        resources: Resources,  # noqa: ARG002
        environ: Mapping[str, str],  # noqa: ARG002
    ) -> tuple[Finding, ...]:
        note = "SDK 2.26 and later come without transformers-neuronx; nxdi is its successor"
        unknown = sorted(set(resolved.spec.extra) - _FIELDS)
        refused = [
            Finding("error", "unknown-field", f"transformers-neuronx has no field {shorten(name)}")
            for name in unknown
        ]
        return (*refused, Finding("warning", "legacy-backend", note))

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


def _refuse(spec: CompileSpec) -> None:
    for name in (
        "speculative_model", "num_speculative_tokens", "speculative_method", "vllm_loader",
        "allow_compile",
    ):  # fmt: skip
        if getattr(spec, name):
            raise RefusedError(
                f"{name} means nothing to the transformers-neuronx backend",
                hint="remove it, or use nxdi",
                options=(name,),
            )


def _configuration(
    spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
) -> NeuronConfig:
    limit = model.config.get("max_position_embeddings")
    seq_len = spec.seq_len or (min(limit, DEFAULT_SEQ_LEN) if isinstance(limit, int) else 0)
    if not seq_len:
        raise SpecError("config.json names no max_position_embeddings", hint="give --seq-len")
    if spec.max_context_length not in (None, seq_len):
        raise SpecError(
            "transformers-neuronx has no max_context_length of its own",
            hint="end --context-encoding-buckets there",
            options=("max_context_length",),
        )
    dtype = spec.torch_dtype
    if dtype == "auto":
        dtype = str(model.config.get("torch_dtype") or model.config.get("dtype") or "float32")
    config = NeuronConfig(
        tp_degree=spec.tp_degree, batch_size=spec.batch_size, seq_len=seq_len,
        max_context_length=seq_len, enable_bucketing=True,
        context_encoding_buckets=_buckets(spec, "context_encoding_buckets", seq_len, environ),
        token_generation_buckets=_buckets(spec, "token_generation_buckets", seq_len, environ),
        torch_dtype=dtype,
    )  # fmt: skip
    return replace(config, max_context_length=config.context_encoding_buckets[-1])


def _buckets(
    spec: CompileSpec, name: str, seq_len: int, environ: Mapping[str, str]
) -> tuple[int, ...]:
    """The option, else vLLM's variable (integers between commas), else one bucket of all."""
    explicit: tuple[int, ...] | None = getattr(spec, name)
    text = environ.get(_BUCKET_VARIABLES[name])
    if explicit is None and text is not None:
        try:
            explicit = tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError:
            raise SpecError(
                f"{_BUCKET_VARIABLES[name]}={text!r} holds something else than whole numbers"
            ) from None
    if explicit is None:
        return (seq_len,)
    check_buckets(name, explicit, seq_len, "seq_len")
    return explicit


def _request(spec: CompileSpec, config: NeuronConfig) -> dict[str, Any]:
    extra = dict(spec.extra)
    return {
        "tp_degree": config.tp_degree,
        "batch_size": config.batch_size,
        "max_model_len": config.seq_len,
        "dtype": config.torch_dtype,
        "context_encoding_buckets": list(config.context_encoding_buckets),
        "token_generation_buckets": list(config.token_generation_buckets),
        "quantization": extra.pop("quantization", None),
        "neuron_config": extra,
    }


def _tasks(config: NeuronConfig, key: str) -> tuple[GraphTask, ...]:
    """The file of a graph is one of several NEFFs: their list stands for all of them."""
    graphs = [
        *(("context_encoding", bucket) for bucket in config.context_encoding_buckets),
        *(("token_generation", bucket) for bucket in config.token_generation_buckets),
    ]
    return tuple(
        GraphTask(
            phase, bucket, digest_of({"key": key, "phase": phase, "bucket": bucket}),
            "neuron_config.json",
        )
        for phase, bucket in graphs
    )  # fmt: skip
