"""The key document of a Neuron artifact: what shapes its graphs, and what is laid beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from neuron_artifacts.model import ModelFile, ModelSnapshot
from neuron_artifacts.neuron_config import generate_buckets

IRRELEVANT_FIELDS = frozenset({
    "_name_or_path", "attention_dropout", "auto_map", "dtype", "embd_pdrop", "initializer_range",
    "resid_pdrop", "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version",
    "use_cache",
})  # fmt: skip
"""Fields of ``config.json`` that reach no graph. The dtype is NeuronConfig's."""

SERVING_FIELDS = ("bos_token_id", "eos_token_id")
"""Fields that decide what is served, but no graph."""

COMPILER_VARIABLES = (
    "DISABLE_NUMERIC_CC_TOKEN", "NEURON_CC_FLAGS", "NEURON_COMBINE_KV_ALLOCATIONS",
    "NEURON_FLOAT4X4_IS_FLOAT16", "NXD_LAYOUT_TRANSFORMATION_OPTIONS", "UNSAFE_FP8FNCAST",
    "XLA_HANDLE_SPECIAL_SCALAR",
)  # fmt: skip
"""The environment variables that reach compiled code; no other one enters a key."""

LAYOUT_FIELDS = ("start_rank_id", "local_ranks_size", "save_sharded_checkpoint", "skip_sharding")
_PATHS = ("quantized_checkpoints_path",)
_WRAPPER_FLAGS = ("--cache_dir", "--no_cache", "--retry_failed_compilation", "--log_level")
_MIN_BUCKET, _MIN_PREFIX_CONTEXT, _MIN_PREFIX_DECODING = 128, 512, 256


def graphs_document(
    *,
    backend: str,
    target: str,
    toolchain: Mapping[str, str],
    config: Mapping[str, Any],
    neuron_config: Mapping[str, Any],
    environ: Mapping[str, str],
    draft: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that shapes compiled code.

    ``neuron_config`` is the finished NeuronConfig. Which ranks are sharded here, whether they are
    stored, and where a checkpoint lies shape no graph: the nodes of a deployment share theirs.
    """
    document: dict[str, Any] = {
        "backend": backend,
        "target": target,
        "toolchain": dict(toolchain),
        "neuron_config": _plain({
            name: value
            for name, value in neuron_config.items()
            if name not in (*LAYOUT_FIELDS, *_PATHS)
        }),
        "model": model_document(config),
        "environment": compiler_environment(environ),
    }  # fmt: skip
    if draft is not None:
        document["draft"] = model_document(draft)
    return document


def weights_document(
    model: ModelSnapshot,
    neuron_config: Mapping[str, Any],
    *,
    draft: ModelSnapshot | None,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that is laid beside the graphs. ``inputs``: see :func:`.inputs.input_digests`."""
    document = checkpoint_document(model)
    document["layout"] = {name: neuron_config.get(name) for name in LAYOUT_FIELDS}
    if draft is not None:
        document["draft"] = _digests(draft, draft.weight_files)
    return {**document, **inputs}


def checkpoint_document(model: ModelSnapshot) -> dict[str, Any]:
    """A checkpoint's files by digest, and what of its configuration decides what is served."""
    return {
        "files": _digests(model, model.weight_files),
        "assets": {file.name: model.sha256(file) for file in model.asset_files},
        "serving": {
            name: model.config[name]
            for name in SERVING_FIELDS
            if model.config.get(name) is not None
        },
    }


def compiler_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that reach compiled code, without flags that only steer the cache."""
    found = {name: environ[name] for name in COMPILER_VARIABLES if environ.get(name)}
    flags = [
        word
        for word in found.pop("NEURON_CC_FLAGS", "").split()
        if not word.startswith(_WRAPPER_FLAGS)
    ]
    return {**found, "NEURON_CC_FLAGS": " ".join(flags)} if flags else found


def list_graphs(neuron_config: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Phases with their buckets, in the order NxD Inference builds them.

    Source: ``models/model_base.py``, ``enable_context_encoding`` and its siblings, and
    ``modules/autobucketing.py``. Where graphs differ in a second size too (a prefix, a number of
    tiles or of sequences), those of one length count as one.
    """
    fields = neuron_config
    phase = _decoding_phase(fields)
    graphs = {"context_encoding": _context_buckets(fields)}
    if fields.get("trace_tokengen_model") and phase != "fused_speculation":  # SDK 2.21
        graphs["token_generation"] = _decoding_buckets(fields)
    graphs[phase] = _decoding_buckets(fields)
    if phase == "medusa_speculation":
        graphs[phase] = tuple(fields["buckets"])
    return tuple((name, bucket) for name, buckets in graphs.items() for bucket in buckets)


def _context_buckets(fields: Mapping[str, Any]) -> tuple[int, ...]:
    most, tiles = fields["max_context_length"], fields.get("chunked_prefill_config")
    by_length = fields.get("enable_bucketing") and not fields.get("context_encoding_buckets")
    if by_length and isinstance(tiles, Mapping):
        return _chunks(tiles["kernel_q_tile_size"], most)
    return _buckets(fields, "context_encoding_buckets", most, _MIN_PREFIX_CONTEXT)


def _decoding_buckets(fields: Mapping[str, Any]) -> tuple[int, ...]:
    return _buckets(fields, "token_generation_buckets", fields["max_length"], _MIN_PREFIX_DECODING)


def _chunks(tile: int, most: int) -> tuple[int, ...]:
    """The shortest, the median and the longest of the multiples of a tile."""
    tiles = math.ceil(most / tile) if most >= tile else 1
    return tuple(dict.fromkeys(tile * count for count in (1, (tiles + 1) // 2, tiles)))


def _decoding_phase(fields: Mapping[str, Any]) -> str:
    if fields.get("enable_fused_speculation"):
        return "fused_speculation"
    if fields.get("speculation_length"):
        return "speculation"
    return "medusa_speculation" if fields.get("is_medusa") else "token_generation"


def _buckets(
    fields: Mapping[str, Any], name: str, maximum: int, with_prefix: int
) -> tuple[int, ...]:
    if not fields.get("enable_bucketing"):
        return (maximum,)
    explicit = fields.get(name)
    if explicit:
        return tuple(entry[0] if isinstance(entry, list) else entry for entry in explicit)
    # Prefixes became a size of their own with SDK 2.24.
    has_prefixes = fields.get("is_prefix_caching") and "prefix_buckets" in fields
    return generate_buckets(with_prefix if has_prefixes else _MIN_BUCKET, maximum)


def model_document(config: Mapping[str, Any]) -> Any:
    """A model's configuration without what reaches no graph, at every depth."""
    left_out = {*IRRELEVANT_FIELDS, *SERVING_FIELDS}
    return _plain({
        name: model_document(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in left_out
    })  # fmt: skip


def _plain(value: Any) -> Any:
    """As a key document holds it: infinities as text, an adapter's place left out."""
    if isinstance(value, Mapping):
        return {
            str(name): sorted(entry) if _is_adapters(name, entry) else _plain(entry)
            for name, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _is_adapters(name: object, value: object) -> bool:
    return name in ("lora_ckpt_paths", "lora_ckpt_paths_cpu") and isinstance(value, Mapping)


def _digests(model: ModelSnapshot, files: tuple[ModelFile, ...]) -> dict[str, dict[str, str]]:
    return {file.name: {"sha256": model.sha256(file)} for file in files}
