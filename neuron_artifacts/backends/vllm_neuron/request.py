"""From a request to the options of vLLM that decide which graphs there are. Pure decisions.

Every option on which a graph depends is fixed here, because vLLM's own defaults are others for
``LLM``, which compiles, than for its server, which has to find the same graphs again.

Sources: aws-neuron-sdk, ``vllm-neuron/docs/guides/reference-configuration.md`` and
``docs/getting-started/migration-nxdi-to-vllm-neuron.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from neuron_artifacts._files import shorten
from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.errors import SpecError
from neuron_artifacts.neuron_config import MIN_BUCKET, NeuronConfig
from neuron_artifacts.spec import CompileSpec

DEFAULT_SEQ_LEN = 2048
SEGMENT_SIZES = (512, 1024, 2048, 4096, 8192)
TILE = 128
"""Decode lengths are multiples of the attention kernel's tile."""

VLLM_OPTIONS = (
    "block_size", "enable_expert_parallel", "enable_prefix_caching", "enable_prompt_embeds",
    "gpu_memory_utilization", "hf_overrides", "kv_cache_dtype", "max_num_batched_tokens",
    "num_gpu_blocks_override",
)  # fmt: skip
"""Entries of ``override_neuron_config`` that are vLLM's own; the rest is ``neuron_config``."""

NEURON_OPTIONS = (
    "apply_prefill_dcp", "attention_dp_size", "decode_context_length_buckets",
    "embedding_dp_size", "enable_structured_outputs", "ep_degree", "fp8_packed_kv",
    "kv_segment_size_buckets", "lm_head_dp_size", "mlp_dp_size", "modules_to_not_convert",
    "num_batched_tokens_buckets", "num_seqs_buckets", "on_device_sampling_config",
    "quantization", "tensor_capture", "tensor_replacement",
)  # fmt: skip
"""Entries of ``neuron_config`` that vLLM Neuron's own pages name, all of them together."""

SHAPING_VARIABLES = (
    "VLLM_NEURON_BACKEND", "VLLM_NEURON_DISABLE_NKI_KERNELS",
    "VLLM_NEURON_KV_GMU_BUDGET_CAP_FRACTION", "VLLM_NEURON_MIN_KV_BUDGET_GIB",
    "VLLM_NEURON_SWITCH_CC",
)  # fmt: skip
"""Variables that change graphs: they are part of the key, and set again for serving."""


@dataclass(frozen=True)
class NativeRequest:
    """``neuron_config`` is that of ``additional_config``, ``arguments`` are further options."""

    tp_degree: int
    batch_size: int
    seq_len: int
    dtype: str
    neuron_config: Mapping[str, Any]
    arguments: Mapping[str, Any]

    @property
    def prefill_buckets(self) -> tuple[int, ...]:
        return tuple(self.neuron_config["num_batched_tokens_buckets"])

    @property
    def decode_buckets(self) -> tuple[int, ...]:
        return tuple(self.neuron_config["num_seqs_buckets"])

    def options(self, model: str) -> dict[str, Any]:
        """The keyword arguments of ``vllm.LLM``."""
        return {
            "model": model,
            "tensor_parallel_size": self.tp_degree,
            "max_num_seqs": self.batch_size,
            "max_model_len": self.seq_len,
            "dtype": self.dtype,
            "additional_config": {"neuron_config": dict(self.neuron_config)},
            **self.arguments,
        }

    def summary(self) -> NeuronConfig:
        """The part of the configuration that every backend has."""
        return NeuronConfig(
            tp_degree=self.tp_degree, batch_size=self.batch_size, seq_len=self.seq_len,
            max_context_length=self.seq_len, enable_bucketing=len(self.prefill_buckets) > 1,
            context_encoding_buckets=self.prefill_buckets,
            token_generation_buckets=(self.seq_len,), torch_dtype=self.dtype,
        )  # fmt: skip


def make_request(spec: CompileSpec, config: Mapping[str, Any]) -> NativeRequest:
    """Fill in every option.

    ``context_encoding_buckets`` are ``num_batched_tokens_buckets`` here, ``max_context_length`` is
    ``max_num_batched_tokens``, and ``token_generation_buckets`` below the length are
    ``decode_context_length_buckets``.

    Raises
    ------
    SpecError
        The model names no length or dtype, or an option means nothing here.
    """
    _refuse(spec)
    inner = config.get("text_config")
    inner = inner if isinstance(inner, Mapping) else config
    seq_len = spec.seq_len or _default_length(inner)
    neuron = dict(spec.extra)
    arguments = {name: neuron.pop(name) for name in VLLM_OPTIONS if name in neuron}
    buckets = neuron.get("num_batched_tokens_buckets") or spec.context_encoding_buckets
    tokens = arguments.get("max_num_batched_tokens") or spec.max_context_length
    tokens = tokens or (buckets[-1] if buckets else seq_len)
    arguments["max_num_batched_tokens"] = tokens
    neuron["num_batched_tokens_buckets"] = list(
        buckets or _powers(MIN_BUCKET, tokens, spec.enable_bucketing)
    )
    neuron.setdefault("num_seqs_buckets", list(_powers(1, spec.batch_size, spec.enable_bucketing)))
    if spec.token_generation_buckets:
        shorter = [bucket for bucket in spec.token_generation_buckets if bucket < seq_len]
        if shorter:  # one for the whole length is always there
            neuron.setdefault("decode_context_length_buckets", shorter)
    dtype = spec.torch_dtype
    if dtype == "auto":
        dtype = str(inner.get("torch_dtype") or inner.get("dtype") or "bfloat16")
    return NativeRequest(spec.tp_degree, spec.batch_size, seq_len, dtype, neuron, arguments)


def check_request(request: NativeRequest) -> Iterator[Finding]:
    """What vllm-neuron would refuse, or fail at, after minutes."""
    config = request.neuron_config
    yield from _check_names(config)
    last = {
        "num_batched_tokens_buckets": request.arguments["max_num_batched_tokens"],
        "num_seqs_buckets": request.batch_size,
    }
    for name in (*last, "decode_context_length_buckets", "kv_segment_size_buckets"):
        buckets = config.get(name)
        if buckets is None:
            continue
        problem = _bucket_problem(buckets)
        if problem is None and name in last and buckets[-1] != last[name]:
            problem = f"must end at {last[name]}, and ends at {buckets[-1]}"
        if problem is None and name == "decode_context_length_buckets":
            problem = _decode_problem(buckets, request.seq_len)
        if problem is None and name == "kv_segment_size_buckets":
            problem = _segment_problem(buckets, config["num_batched_tokens_buckets"])
        if problem:
            yield Finding("error", "buckets", f"{name} {problem}")
    if request.tp_degree & (request.tp_degree - 1):
        yield Finding(
            "warning", "tp-degree", f"tp_degree {request.tp_degree} is no power of two",
            "vLLM Neuron's guides use powers of two only",
        )  # fmt: skip


def _check_names(config: Mapping[str, Any]) -> Iterator[Finding]:
    known = (*NEURON_OPTIONS, *VLLM_OPTIONS)
    for name in sorted(set(config) - {*NEURON_OPTIONS}):
        near = get_close_matches(name, known, n=1)
        yield Finding(
            "error", "unknown-field", f"neuron_config of vllm-neuron has no {shorten(name)}",
            f"did you mean {near[0]!r}?" if near
            else "NxD Inference's own fields mean nothing here; --skip-preflight passes it on",
        )  # fmt: skip


def _refuse(spec: CompileSpec) -> None:
    if spec.speculative_model or spec.num_speculative_tokens or spec.speculative_method:
        raise SpecError(
            "vllm-neuron compiles no speculation without a device",
            hint="compile without speculative options",
            options=("speculative_model", "num_speculative_tokens", "speculative_method"),
        )
    if spec.vllm_loader:
        raise SpecError(
            "vllm_loader means nothing to the vllm-neuron backend",
            hint="use nxdi",
            options=("vllm_loader",),
        )


def _default_length(config: Mapping[str, Any]) -> int:
    limit = config.get("max_position_embeddings")
    if not isinstance(limit, int):
        raise SpecError("config.json names no max_position_embeddings", hint="give --seq-len")
    return min(limit, DEFAULT_SEQ_LEN)


def _powers(low: int, high: int, enabled: bool) -> tuple[int, ...]:
    """Powers of two from ``low`` below ``high``, then ``high``."""
    if not enabled:
        return (high,)
    powers = []
    while low < high:
        powers.append(low)
        low *= 2
    return (*powers, high)


def _bucket_problem(buckets: Any) -> str | None:
    if not isinstance(buckets, Sequence) or not buckets:
        return "must be a list of lengths"
    if not all(type(bucket) is int and bucket > 0 for bucket in buckets):
        return "must hold positive whole numbers"
    if any(second <= first for first, second in pairwise(buckets)):
        return "must ascend without repeats"
    return None


def _decode_problem(buckets: Sequence[int], seq_len: int) -> str | None:
    if buckets[-1] >= seq_len:
        return f"must stay below max_model_len {seq_len}"
    odd = [bucket for bucket in buckets if bucket % TILE]
    return f"must hold multiples of {TILE}, and {odd[0]} is none" if odd else None


def _segment_problem(buckets: Sequence[int], tokens: Sequence[int]) -> str | None:
    odd = [bucket for bucket in buckets if bucket not in SEGMENT_SIZES]
    if odd:
        return f"must be among {', '.join(map(str, SEGMENT_SIZES))}, and {odd[0]} is not"
    if list(buckets) != list(tokens):
        return "must equal num_batched_tokens_buckets"
    return None
