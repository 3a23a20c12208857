"""How the cpu backend fills in a Neuron configuration, and what of it it refuses."""

from __future__ import annotations

from typing import Any

from neuron_artifacts.backends.cpu.arch import Arch
from neuron_artifacts.errors import RefusedError, SpecError
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.neuron_config import NeuronConfig, check_buckets, default_buckets
from neuron_artifacts.spec import CompileSpec

DEFAULT_SEQ_LEN = 2048
"""Where nothing is asked: a cache that fits a laptop, not the model's whole context."""

IMPLIED: dict[str, Any] = {
    "is_continuous_batching": True,
    "on_cpu": True,
    "padding_side": "right",
    "save_sharded_checkpoint": True,
}
"""NxD Inference fields that hold on this backend whatever is said; other values are refused."""

_NEURON_ONLY = (
    "speculative_model", "num_speculative_tokens", "speculative_method", "vllm_loader",
    "allow_compile",
)  # fmt: skip


def resolve_neuron_config(
    spec: CompileSpec, arch: Arch, model: ModelSnapshot
) -> tuple[NeuronConfig, tuple[str, ...]]:
    """The configuration with every default filled in, and remarks worth telling.

    Raises
    ------
    SpecError
        Values that contradict each other or the model.
    RefusedError
        Something this backend does not do: tensor parallelism, fp16 compute, a NeuronConfig field.
    """
    _refuse(spec)
    limit = arch.max_position_embeddings
    seq_len = spec.seq_len or min(limit, DEFAULT_SEQ_LEN)
    if seq_len > limit:
        raise SpecError(
            f"seq_len {seq_len} is beyond the model's max_position_embeddings {limit}",
            hint=f"choose at most {limit}",
            options=("seq_len",),
        )
    context = spec.max_context_length or seq_len
    if context > seq_len:
        raise SpecError(
            f"max_context_length {context} is larger than seq_len {seq_len}",
            hint="a prompt must fit the sequence: lower one or raise the other",
            options=("max_context_length",),
        )
    config = NeuronConfig(
        tp_degree=spec.tp_degree,
        batch_size=spec.batch_size,
        seq_len=seq_len,
        max_context_length=context,
        enable_bucketing=spec.enable_bucketing,
        context_encoding_buckets=_buckets(
            spec, "context_encoding_buckets", context, "max_context_length"
        ),
        token_generation_buckets=_buckets(spec, "token_generation_buckets", seq_len, "seq_len"),
        torch_dtype=_compute_dtype(spec, model),
    )
    return config, tuple(_remarks(config))


def _refuse(spec: CompileSpec) -> None:
    if spec.tp_degree != 1:
        raise RefusedError(
            f"tp_degree is {spec.tp_degree}, and the cpu backend runs one rank",
            hint="leave --tp-degree at 1, or choose a Neuron backend",
            options=("tp_degree",),
        )
    for name in _NEURON_ONLY:
        if getattr(spec, name):
            raise RefusedError(
                f"{name} means nothing to the cpu backend",
                hint="remove it, or choose a Neuron backend with --backend",
                options=(name,),
            )
    for name, value in spec.extra.items():
        if name not in IMPLIED or value != IMPLIED[name] or type(value) is not type(IMPLIED[name]):
            raise RefusedError(
                f"the cpu backend does not honour {name}={value!r} of override_neuron_config",
                hint="remove it; a setting is never silently dropped",
                options=(name,),
            )


def _buckets(spec: CompileSpec, name: str, maximum: int, maximum_name: str) -> tuple[int, ...]:
    explicit: tuple[int, ...] | None = getattr(spec, name)
    if explicit is None:
        return default_buckets(maximum, enabled=spec.enable_bucketing)
    if not spec.enable_bucketing:
        raise SpecError(
            f"{name} is given while enable_bucketing is false",
            hint="drop one of the two",
            options=(name,),
        )
    check_buckets(name, explicit, maximum, maximum_name)
    return explicit


def _compute_dtype(spec: CompileSpec, model: ModelSnapshot) -> str:
    if spec.torch_dtype == "float16":
        raise RefusedError(
            "the cpu backend computes in float32 or bfloat16, not float16",
            hint="fp16 weights are fine: choose --torch-dtype float32 or bfloat16 for the compute",
            options=("torch_dtype",),
        )
    if spec.torch_dtype != "auto":
        return spec.torch_dtype
    stored = [info.dtype for info in model.all_tensors.values() if len(info.shape) == 2]
    return "bfloat16" if stored and all(dtype == "BF16" for dtype in stored) else "float32"


def _remarks(config: NeuronConfig) -> list[str]:
    if config.max_model_len == config.seq_len:
        return []
    return [
        f"the last token-generation bucket ends at {config.max_model_len}: positions up to "
        f"seq_len {config.seq_len} cannot be decoded"
    ]
