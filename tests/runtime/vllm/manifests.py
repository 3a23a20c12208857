"""Manifests of Neuron artifacts, as a build would write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from neuron_artifacts.artifact import FileEntry, Manifest
from neuron_artifacts.key import make_key
from neuron_artifacts.runtime.vllm.served import Served, read_served


def make_manifest(
    *,
    backend: str = "nxdi",
    serve: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    layout: Mapping[str, Any] | None = None,
    shards: Iterable[int] = (0, 1),
    **config: Any,
) -> Manifest:
    neuron = {
        "tp_degree": 2, "batch_size": 4, "seq_len": 2048, "max_context_length": 2048,
        "enable_bucketing": True, "context_encoding_buckets": [128, 2048],
        "token_generation_buckets": [128, 2048], "torch_dtype": "bfloat16", **config,
    }  # fmt: skip
    graphs = {"neuron_config": {"world_size": neuron["tp_degree"], **(fields or {})}}
    key = make_key(graphs, {"layout": dict(layout or {})})
    names = [f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in shards]
    return Manifest(
        key=key.key, graphs_digest=key.graphs_digest, weights_digest=key.weights_digest,
        document=key.document, backend=backend, target="trn1", neuron_config=neuron, toolchain={},
        model={"name": "llama", "source": "folder", "revision": None}, graphs=(),
        files=tuple(FileEntry(name, 1, "0" * 64, "weights") for name in names),
        serve={"max_model_len": 2048, "served_model_name": "llama", **(serve or {})},
        created="2026-07-01T00:00:00Z", created_by="neuron-artifacts",
    )  # fmt: skip


def make_served(**changes: Any) -> Served:
    return read_served(make_manifest(**changes))
