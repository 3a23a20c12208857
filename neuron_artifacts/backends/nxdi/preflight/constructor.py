"""What NeuronConfig itself refuses, and what it drops without a word."""

from __future__ import annotations

from collections.abc import Iterator

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.lora import broken_adapters
from neuron_artifacts.backends.nxdi.neuron_config import field_defaults, reaching_arguments
from neuron_artifacts.backends.nxdi.neuron_rules import broken_rules
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject

ARGUMENT_ALIASES = (
    "async", "disable_normalize_top_k_affinities", "logical_neuron_cores", "router_act_fn",
    "router_dtype",
)  # fmt: skip
"""Arguments that reach a field of another name."""

_DROPPED_KNOWINGLY = ("trace_tokengen_model",)
"""What vLLM's loaders pass although NeuronConfig no longer has it."""

_DEPRECATED = {
    "attn_tkg_nki_kernel_enabled": ("2.29", "attn_block_tkg_nki_kernel_enabled"),
    "attn_tkg_builtin_kernel_enabled": ("2.29", "attn_block_tkg_nki_kernel_enabled"),
    "mlp_tkg_nki_kernel_enabled": ("2.29", "mlp_kernel_enabled"),
    "attn_block_cte_nki_kernel_enabled": ("2.29", "its four kernels by name"),
    "logical_neuron_cores": ("2.22", "logical_nc_config"),
}
"""Since when, and what replaces it."""


_HINTS = {
    "quantized-path": "quantized_checkpoints_path: FOLDER, where it is, or where it is to be made",
    "buckets-limit": "lower the last bucket, or raise what it lies beyond",
    "attention-dtype": "cast_type: as-declared",
    "attention-dp-batching": "is_continuous_batching: true",
    "mlp-cp-degree": "sequence_parallel_enabled: true",
    "block-tkg-kernel": "qkv_kernel_enabled: true",
    "quantized-qkv-kernel": 'modules_to_not_convert: ["lm_head", …]',
    "rmsnorm-quantize-kernel": "quantized_mlp_kernel_enabled: true",
    "tensor-capture": "on_device_sampling_config: {}",
}


def check_constructor(subject: Subject) -> Iterator[Finding]:
    """Every rule of the constructor that is broken, and every argument that is lost."""
    level, family = subject.level, subject.family
    if level is None:
        yield finding("level-unknown", "this toolchain's SDK level is newer than this version")
        return
    if family is None:
        names = subject.model.config.get("architectures")
        yield finding(
            "model-class", f"no class of NxD Inference is known here for {names}",
            hint="its own registry decides when it compiles",
        )  # fmt: skip
        return
    given = reaching_arguments(subject.asked, family, level)
    broken = (*broken_rules(subject.fields, given, level),
              *broken_adapters(given.get("lora_config"), level))  # fmt: skip
    for rule in broken:
        yield finding(rule.rule, rule.message, hint=rule.hint or _HINTS.get(rule.rule))
    yield from _lost_arguments(subject)
    yield from _deprecated(subject)


def _lost_arguments(subject: Subject) -> Iterator[Finding]:
    level, family = subject.level, subject.family
    assert level is not None
    assert family is not None
    known = field_defaults(family, level)
    reaching = reaching_arguments(subject.asked, family, level)
    for name in sorted(set(subject.asked) - set(reaching) - {*_DROPPED_KNOWINGLY}):
        if name in known and subject.asked[name] != subject.fields.get(name):
            yield finding("argument-computed", f"{name} is computed; what was asked is dropped")
        elif name not in known and name not in ARGUMENT_ALIASES:
            yield finding(
                "argument-unknown",
                f"NeuronConfig of SDK {level.name} has no {name}, and drops it with a warning",
            )
    quantizes = subject.field("activation_quantization_type") is not None
    if quantizes and level.since("2.28") and subject.asked.get("fused_qkv"):
        yield finding("fused-qkv-dropped", "activation_quantization_type sets fused_qkv to false")


def _deprecated(subject: Subject) -> Iterator[Finding]:
    assert subject.level is not None
    for name, (since, instead) in _DEPRECATED.items():
        if subject.asked.get(name) and subject.level.since(since):
            yield finding("kernel-deprecated", f"{name} is deprecated", hint=f"use {instead}")
