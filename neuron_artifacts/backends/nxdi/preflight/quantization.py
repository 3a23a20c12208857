"""Quantisation and dtypes. Sources: ``models/application_base.py`` of
neuronx-distributed-inference (what can be quantised here) and ``inference_demo.py`` (the two
variables of fp8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.inputs import is_stale
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject

_MADE = ("per_tensor_symmetric", "per_channel_symmetric")
_TYPES = (
    *_MADE, "per_key_symmetric", "blockwise_symmetric", "expert_wise_per_channel_symmetric",
)  # fmt: skip
_FP8_VARIABLES = ("XLA_HANDLE_SPECIAL_SCALAR", "UNSAFE_FP8FNCAST")
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def check_quantization(subject: Subject) -> Iterator[Finding]:
    """What NeuronConfig takes and the quantiser, the compiler or the loader does not."""
    if subject.field("quantized"):
        yield from _check_type(subject)
        path = subject.field("quantized_checkpoints_path")
        if path is not None and is_stale(subject.model, subject.fields):
            yield finding(
                "quantized-stale",
                f"{path} was quantised from other weights, or with other settings, than are asked "
                "for now",
                hint="name another quantized_checkpoints_path, or remove it to have it made again",
            )
        if not subject.field("modules_to_not_convert"):
            yield finding(
                "quantized-whole", "modules_to_not_convert is not given: lm_head is quantised too"
            )
    elif subject.model.config.get("quantization_config"):
        kind = subject.model.config["quantization_config"]
        name = kind.get("quant_method") if isinstance(kind, dict) else kind
        yield finding(
            "quantized-already",
            f"the checkpoint is quantised ({name}), and quantized is not set: its scales would be "
            "left out",
            hint="quantized: true with quantized_checkpoints_path and its quantization_type",
        )
    yield from _check_fp8(subject)


def check_dtypes(subject: Subject) -> Iterator[Finding]:
    """The checkpoint's dtype against the one computed in."""
    wanted = _STORED.get(str(subject.fields["torch_dtype"]))
    stored = {info.dtype for info in subject.model.all_tensors.values() if len(info.shape) > 1}
    stored &= set(_STORED.values())
    if wanted is None or not stored:
        return
    if subject.field("cast_type") == "as-declared":
        if others := sorted(stored - {wanted}):
            yield finding(
                "dtype-mixed",
                f"cast_type as-declared keeps {', '.join(others)} weights beside torch_dtype "
                f"{subject.fields['torch_dtype']}",
            )
    elif wanted == "F16" and "BF16" in stored:
        yield finding(
            "dtype-range",
            "bfloat16 weights are cast to float16, whose largest number is 65504",
            hint="--torch-dtype bfloat16",
        )


def _check_type(subject: Subject) -> Iterator[Finding]:
    kind, path = subject.field("quantization_type"), subject.field("quantized_checkpoints_path")
    if kind not in _TYPES:
        yield finding(
            "quantization-type", f"quantization_type {kind!r} is unknown",
            hint=f"one of {', '.join(_TYPES)}",
        )  # fmt: skip
    elif kind not in _MADE and path is not None and not Path(path).exists():
        yield finding(
            "quantization-made",
            f"{kind} cannot be made here, and there is nothing at {path}",
            hint=f"quantise the checkpoint yourself, or use {' or '.join(_MADE)}",
        )


def _check_fp8(subject: Subject) -> Iterator[Finding]:
    dtype = str(subject.field("quantization_dtype", "")).lower()
    uses = (subject.field("quantized") and dtype.startswith("f8")) or subject.field(
        "kv_cache_quant"
    )
    missing = [name for name in _FP8_VARIABLES if subject.environ.get(name) != "1"]
    if uses and missing:
        yield finding(
            "quantized-fp8",
            f"fp8 is compiled without {' and '.join(missing)}, which NxD Inference's own script "
            "sets",
            hint=" ".join(f"{name}=1" for name in missing),
        )
