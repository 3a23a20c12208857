"""The architecture a ``config.json`` describes, with transformers' defaults filled in.

Defaults and meanings are those of transformers 5 (``models/*/configuration_*.py`` and
``modeling_rope_utils.py``), which also reads the older spelling: ``rope_theta`` and
``rope_scaling`` at the top level instead of ``rope_parameters``. A field that is ``null`` counts
as absent, save where ``null`` has a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from neuron_artifacts._files import shorten
from neuron_artifacts.backends.cpu._fields import Fields
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError

GRAPH_FIELDS = (
    "architectures", "attention_bias", "head_dim", "hidden_act", "hidden_size",
    "intermediate_size", "layer_types", "max_position_embeddings", "max_window_layers", "mlp_bias",
    "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "original_max_position_embeddings", "partial_rotary_factor", "quantization_config",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window",
    "tie_word_embeddings", "use_sliding_window", "vocab_size",
)  # fmt: skip
"""Fields that shape a graph, its rotary tables or its cache, or decide whether we accept it."""

SERVING_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Fields that decide what is served, but no graph."""

IRRELEVANT_FIELDS = (
    "_attn_implementation", "_name_or_path", "attention_dropout", "auto_map",
    "chunk_size_feed_forward", "dtype", "id2label", "initializer_range", "label2id",
    "output_attentions", "output_hidden_states", "pretraining_tp", "problem_type", "return_dict",
    "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
)  # fmt: skip
"""Fields that change nothing here: notes of the exporter, and what only training reads.

``torch_dtype`` and ``dtype`` are among them because the tensors say themselves how they are stored.
"""

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
MAX_DIM = 1 << 20
MAX_VOCAB = 1 << 24
MAX_LAYERS = 4096
MAX_POSITIONS = 1 << 27


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding; the fields a ``type`` does not read keep their neutral values.

    ``original_max_position_embeddings`` is the context the model was pre-trained with
    (``llama3``, ``yarn``); ``attention_factor`` of ``None`` is derived from ``factor`` and the
    two ``mscale`` (``yarn``).
    """

    theta: float = 10_000.0
    type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True


@dataclass(frozen=True)
class Arch:
    """A decoder-only transformer of the Llama kind.

    ``windows`` has one entry a layer: the number of latest positions a token attends to, itself
    among them, or ``None`` for all.
    """

    family: str
    model_type: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]
    rope: Rope
    max_position_embeddings: int


@dataclass(frozen=True)
class _Family:
    """What distinguishes one transformers class: its defaults, and the fields it reads."""

    name: str
    model_type: str
    vocab_size: int = 32_000
    intermediate_size: int = 11_008
    max_position_embeddings: int = 2048
    kv_heads: int | None = None
    head_dim: int | None = None
    always_qkv_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: str = "none"
    heads_divide_hidden: bool = False


_FAMILIES = {
    "LlamaForCausalLM": _Family(
        "llama", "llama", attention_bias=True, mlp_bias=True, heads_divide_hidden=True
    ),
    "MistralForCausalLM": _Family(
        "mistral", "mistral", intermediate_size=14_336, max_position_embeddings=4096 * 32,
        kv_heads=8, windows="all",
    ),
    "Qwen2ForCausalLM": _Family(
        "qwen2", "qwen2", vocab_size=151_936, intermediate_size=22_016,
        max_position_embeddings=32_768, kv_heads=32, always_qkv_bias=True, windows="listed",
    ),
    "Qwen3ForCausalLM": _Family(
        "qwen3", "qwen3", vocab_size=151_936, intermediate_size=22_016,
        max_position_embeddings=32_768, kv_heads=32, head_dim=128, attention_bias=True,
        qk_norm=True, windows="listed",
    ),
}  # fmt: skip

SUPPORTED = tuple(_FAMILIES)


def parse_arch(config: Mapping[str, Any]) -> Arch:
    """Read ``config.json``.

    Raises
    ------
    ModelFormatError
        A field has the wrong type, is out of range, or contradicts another.
    UnsupportedModelError
        The model is sound as far as one can see, but not one of :data:`SUPPORTED`, or it uses
        something these graphs do not compute.
    """
    architecture, family = _family(config)
    fields = Fields(config, "config.json")
    _refuse_what_is_not_computed(fields)
    hidden = fields.integer("hidden_size", 4096, 1, MAX_DIM)
    heads = fields.integer("num_attention_heads", 32, 1, MAX_DIM)
    layers = fields.integer("num_hidden_layers", 32, 1, MAX_LAYERS)
    positions = fields.integer(
        "max_position_embeddings", family.max_position_embeddings, 1, MAX_POSITIONS
    )
    attention_bias = family.attention_bias and fields.boolean("attention_bias", False)
    return Arch(
        family=family.name,
        model_type=family.model_type,
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", family.intermediate_size, 1, MAX_DIM),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_kv_heads(fields, family, heads),
        head_dim=_head_dim(fields, family, hidden, heads),
        vocab_size=fields.integer("vocab_size", family.vocab_size, 1, MAX_VOCAB),
        rms_norm_eps=fields.real("rms_norm_eps", 1e-6, 0.0, 1.0),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        qkv_bias=family.always_qkv_bias or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family.mlp_bias and fields.boolean("mlp_bias", False),
        qk_norm=family.qk_norm,
        windows=_windows(fields, family, layers),
        rope=_rope(fields, positions),
        max_position_embeddings=positions,
    )


def _family(config: Mapping[str, Any]) -> tuple[str, _Family]:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ModelFormatError(
            f"config.json: architectures must be a list of class names, got {shorten(names)}",
            hint=f"supported architectures: {', '.join(SUPPORTED)}",
        )
    if names[0] not in _FAMILIES:
        raise UnsupportedModelError(
            f"architecture {shorten(names[0])} is not supported by the cpu backend",
            hint=f"supported architectures: {', '.join(SUPPORTED)}",
        )
    family = _FAMILIES[names[0]]
    model_type = config.get("model_type")
    if model_type not in (None, family.model_type):
        raise ModelFormatError(
            f"config.json: model_type is {shorten(model_type)}, but {names[0]} is of model_type "
            f"{family.model_type!r}"
        )
    return names[0], family


def _refuse_what_is_not_computed(fields: Fields) -> None:
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        _unsupported("hidden_act", shorten(activation), "silu")
    if fields.given("quantization_config"):
        method = fields.section("quantization_config").raw.get("quant_method")
        _unsupported(
            "quantization_config", f"quant_method {shorten(method)}", "float32, float16, bfloat16"
        )
    rotary = fields.real("partial_rotary_factor", 1.0, 0.0, 1.0)
    if rotary != 1.0:
        _unsupported("partial_rotary_factor", rotary, "1.0")


def _kv_heads(fields: Fields, family: _Family, heads: int) -> int:
    default = heads if "num_key_value_heads" in fields.raw else family.kv_heads or heads
    count = fields.integer("num_key_value_heads", default, 1, MAX_DIM)
    if heads % count:
        raise ModelFormatError(
            f"config.json: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {count}"
        )
    return count


def _head_dim(fields: Fields, family: _Family, hidden: int, heads: int) -> int:
    derived = not fields.given("head_dim") and family.head_dim is None
    if hidden % heads and (derived or family.heads_divide_hidden):
        raise ModelFormatError(
            f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        )
    size = fields.integer("head_dim", family.head_dim or hidden // heads, 1, MAX_DIM)
    if size % 2:
        raise ModelFormatError(f"config.json: head_dim {size} is odd, rotary embedding needs pairs")
    if size * heads > MAX_DIM:
        raise ModelFormatError(f"config.json: {heads} heads of head_dim {size} are too many")
    return size


def _windows(fields: Fields, family: _Family, layers: int) -> tuple[int | None, ...]:
    if family.windows == "listed":
        return _listed_windows(fields, layers)
    default = 4096 if family.windows == "all" and "sliding_window" not in fields.raw else None
    window = fields.optional_integer("sliding_window", default, 1, MAX_POSITIONS)
    if window is not None and family.windows == "none":
        _unsupported("sliding_window", window, f"null for {family.name}")
    kind = "full_attention" if window is None else "sliding_attention"
    if any(other != kind for other in _layer_types(fields, layers) or ()):
        _unsupported("layer_types", "a mixture", f"{kind} in every layer of this model")
    return (window,) * layers


def _listed_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """Qwen: ``layer_types`` or ``max_window_layers`` says which layers slide, if any do."""
    sliding = fields.boolean("use_sliding_window", False)
    default = 4096 if "sliding_window" not in fields.raw else None
    window = fields.optional_integer("sliding_window", default, 1, MAX_POSITIONS)
    window = window if sliding else None
    first = fields.integer("max_window_layers", 28, 0, MAX_POSITIONS)
    kinds = _layer_types(fields, layers)
    if kinds is None:
        return tuple(window if i >= first else None for i in range(layers))
    if window is None and "sliding_attention" in kinds:
        raise ModelFormatError(
            "config.json: layer_types has sliding_attention, but use_sliding_window is "
            f"{str(sliding).lower()} or sliding_window is null"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _layer_types(fields: Fields, layers: int) -> list[str] | None:
    kinds = fields.raw.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        fields.reject("layer_types", "a list of names")
    if len(kinds) != layers:
        raise ModelFormatError(
            f"config.json: layer_types has {len(kinds)} entries for {layers} layers"
        )
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            _unsupported("layer_types", shorten(kind), "full_attention, sliding_attention")
    return kinds


def _rope(fields: Fields, positions: int) -> Rope:
    """``rope_scaling`` goes before ``rope_parameters`` where both hold something, as upstream."""
    name = "rope_scaling" if fields.given("rope_scaling") else "rope_parameters"
    scaling = fields.section(name)
    theta = fields.real("rope_theta", 10_000.0, 1e-3, 1e12)
    theta = scaling.real("rope_theta", theta, 1e-3, 1e12)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if any(isinstance(value, Mapping) for value in scaling.raw.values()):
        _unsupported(name, "one per layer type", "one for all layers")
    if kind not in ROPE_TYPES:
        _unsupported(f"{name}.rope_type", shorten(kind), ", ".join(ROPE_TYPES))
    if scaling.real("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0:
        _unsupported(f"{name}.partial_rotary_factor", "below 1", "1.0")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, scaling.required_real("factor", 1e-3, 1e6))
    # A field of this name at the top level overrides the one beside the other parameters.
    original = scaling.integer("original_max_position_embeddings", positions, 1, MAX_POSITIONS)
    original = fields.integer("original_max_position_embeddings", original, 1, MAX_POSITIONS)
    build = _llama3 if kind == "llama3" else _yarn
    return build(scaling, theta, original, positions)


def _llama3(scaling: Fields, theta: float, original: int, _: int) -> Rope:
    low = scaling.required_real("low_freq_factor", 1e-6, 1e6)
    high = scaling.required_real("high_freq_factor", 1e-6, 1e6)
    if high <= low:
        raise ModelFormatError(
            f"config.json: {scaling.where}: high_freq_factor {high} must be above "
            f"low_freq_factor {low}"
        )
    factor = scaling.required_real("factor", 1e-3, 1e6)
    return Rope(theta, "llama3", factor, original, low_freq_factor=low, high_freq_factor=high)


def _yarn(scaling: Fields, theta: float, original: int, positions: int) -> Rope:
    if theta <= 1:
        raise ModelFormatError(f"config.json: rope_theta {theta} must be above 1 for yarn")
    if "factor" in scaling.raw and scaling.raw["factor"] is None:
        factor = positions / original
    else:
        factor = scaling.required_real("factor", 1e-3, 1e6)
    return Rope(
        theta,
        "yarn",
        factor,
        original,
        attention_factor=scaling.optional_real("attention_factor", 0.0, 1e6),
        beta_fast=_rotations(scaling, "beta_fast", 32.0),
        beta_slow=_rotations(scaling, "beta_slow", 1.0),
        mscale=scaling.real("mscale", 0.0, 0.0, 1e6),
        mscale_all_dim=scaling.real("mscale_all_dim", 0.0, 0.0, 1e6),
        truncate=scaling.boolean("truncate", True),
    )


def _rotations(scaling: Fields, name: str, default: float) -> float:
    if scaling.raw.get(name) == 0:  # falls back to the default too, as upstream
        return default
    return scaling.real(name, default, 1e-6, 1e6)  # its reciprocal must be finite


def _unsupported(field: str, value: object, supported: str) -> NoReturn:
    raise UnsupportedModelError(
        f"config.json: {field} is {value}, which the cpu backend does not compute",
        hint=f"supported: {supported}",
    )
