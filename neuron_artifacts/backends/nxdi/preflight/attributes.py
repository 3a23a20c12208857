"""What the model's own configuration asks of NeuronConfig.

Source: ``models/config.py`` of neuronx-distributed-inference (``InferenceConfig.validate_config``)
and ``models/model_base.py`` (``NeuronBaseForCausalLM.__init__``: chunked prefill).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.hf_config import load_hf_config
from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError

_WITH_CHUNKED_ATTENTION: Mapping[str, Any] = {
    "flash_decoding_enabled": False, "attn_tkg_builtin_kernel_enabled": False,
    "attn_tkg_nki_kernel_enabled": False, "is_prefix_caching": False, "is_chunked_prefill": False,
}  # fmt: skip
_FIRST_LEVEL: Mapping[str, Any] = {
    "attn_kernel_enabled": False, "attn_block_tkg_nki_kernel_enabled": False,
    "attn_block_tkg_nki_kernel_cache_update": False, "cp_degree": 1,
}  # fmt: skip
_LATER_LEVELS: Mapping[str, Any] = {"padding_side": "right", "attention_dp_degree": 1}


def check_attributes(subject: Subject) -> Iterator[Finding]:
    """Attributes that the class asserts, once transformers has filled in its defaults."""
    level, family = subject.level, subject.family
    if level is None or family is None:
        return
    try:
        known, _ = load_hf_config(subject.model.config, subject.model.name, level.transformers)
    except (ModelFormatError, UnsupportedModelError):
        return  # transformers itself, or the worker, judges
    missing = [name for name in family.required if name not in known]
    if missing:
        yield finding(
            "model-attributes",
            f"config.json (model_type {known.get('model_type')}) gives no {', '.join(missing)}, "
            f"and {family.application_class} needs them",
            hint="correct its model_type, or its architectures",
        )


def check_window(subject: Subject) -> Iterator[Finding]:
    """NxD Inference's windowed prefill takes the model's own window only."""
    window = subject.field("windowed_context_encoding_size")
    sliding = subject.model.config.get("sliding_window")
    if None not in (window, sliding) and window != sliding:
        yield finding(
            "window-size",
            f"windowed_context_encoding_size {window} is not the model's sliding_window {sliding}",
        )


def check_chunks(subject: Subject) -> Iterator[Finding]:
    """Chunked attention, which is the model's, and chunked prefill, which is asked for."""
    level = subject.level
    if level is None:
        return
    if subject.field("is_chunked_prefill") and level.since("2.28"):
        yield finding(
            "chunked-prefill-unsupported",
            "NeuronConfig takes chunked prefill, and building the model raises NotImplementedError",
        )
    size, length = _chunk_size(subject.model.config), subject.fields["seq_len"]
    if size is None or level.before("2.24") or (size >= length and level.since("2.25")):
        return
    for name, value in _allowed(level).items():
        if subject.field(name, value) != value:
            yield finding(
                "chunked-attention",
                f"{name} {subject.fields[name]!r} with attention chunks of {size} in seq_len "
                f"{length}: only {value!r} is possible",
            )
    degree = subject.field("cp_degree", 1)
    if level.since("2.25") and (size % degree or length % size % degree):
        yield finding(
            "chunked-attention",
            f"attention chunks of {size} in seq_len {length} do not divide over cp_degree {degree}",
        )


def _allowed(level: SdkLevel) -> dict[str, Any]:
    own = _FIRST_LEVEL if level.name == "2.24" else _LATER_LEVELS
    return {**_WITH_CHUNKED_ATTENTION, **own}


def _chunk_size(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) else config
    size = text.get("attention_chunk_size")
    return size if isinstance(size, int) and size > 0 else None
