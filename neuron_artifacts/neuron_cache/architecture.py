"""Whether two model configurations describe the same graphs.

A registry entry holds what transformers' ``PretrainedConfig.to_diff_dict`` gave when it was made:
every value of the class, defaults included, except shared ones at their default. A ``config.json``
leaves defaults out, may carry ``null`` where the entry carries a number, and spells some values
differently from one transformers release to the next. Both are therefore brought to one form:
defaults filled in, derived values computed, and what shapes no graph dropped.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

_IRRELEVANT = re.compile(
    r"""
    _.* | .*_token_ids? | .*dropout.* | .*_pdrop | .*layerdrop | initializer_.* | init_std
    | .*torch_dtype | .*dtype | torchscript | transformers_version | architectures | auto_map
    | use_cache | use_return_dict | return_dict | return_dict_in_generate | output_.*
    | gradient_checkpointing | pretraining_tp | router_(aux|z|jitter)\w* | .*_loss(_\w+)?
    | problem_type | finetuning_task | task | task_specific_params | tokenizer_class | prefix
    | id2label | label2id | num_labels | summary_.* | export_model_type | neuron
    | sample_size | projection_dim | unsloth_.* | name_or_path | attn_implementation
    | (max|min)_length | do_sample | early_stopping | num_beams | num_beam_groups
    | diversity_penalty | temperature | top_[kp] | typical_p | (encoder_)?repetition_penalty
    | length_penalty | (encoder_)?no_repeat_ngram_size | bad_words_ids | num_return_sequences
    | exponential_decay_length_penalty | suppress_tokens | begin_suppress_tokens
    | remove_invalid_values | apply_spec_augment | mask_(time|feature)_\w+
    | sliding_window_pattern | transformers\.js_config | out_(features|indices) | stage_names
    """,
    re.VERBOSE,
)
"""Fields that no inference graph depends on, or that the task decides."""

_CORE = (
    "vocab_size", "hidden_size", "d_model", "n_embd", "dim", "num_hidden_layers", "n_layer",
    "n_layers", "num_layers", "num_attention_heads", "n_head", "n_heads", "num_heads",
    "intermediate_size", "d_ff",
)  # fmt: skip
"""What an entry must say itself: a class default may not stand in for it."""

_CLASSIFICATION = ("classification", "multiple-choice", "zero-shot")


def same_architecture(asked: Config, cached: Config, *, task: str | None = None) -> bool:
    """Whether graphs compiled for ``cached`` (an entry's config) run a model of ``asked``.

    ``task``, the entry's, tells whether the number of labels matters, and whether the text part of
    a composite model is meant, as optimum-neuron has it for text generation. Weights never matter.
    """
    model_type = cached.get("model_type")
    text = _text_config(asked) if task in (None, "text-generation") else None
    candidates = [asked, *(c for c in (text,) if c)]
    return any(
        candidate.get("model_type") == model_type and _agree(candidate, cached, task)
        for candidate in candidates
    )


def same_pipeline(asked: Mapping[str, Any], cached: Mapping[str, Any]) -> bool:
    """The same for pipelines, given the config of each component by its name.

    Auto-encoders are not compared (exports differ in how they name and split them), nor are
    schedulers and tokenizers, which are no graphs. An encoder-decoder model, which has one
    config, is exported as two components.
    """
    if isinstance(asked.get("model_type"), str):
        parts = [cached[name] for name in ("encoder", "decoder") if name in cached]
        plain = {name: value for name, value in asked.items() if name not in _ROLES}
        return bool(parts) and all(
            _agree(plain, {n: v for n, v in part.items() if n not in _ROLES}, None)
            for part in parts
        )
    mine, theirs = _graph_components(asked), _graph_components(cached)
    if mine.keys() != theirs.keys() or not mine.keys() & {"unet", "transformer"}:
        return False
    return all(_agree_where_both_say(mine[name], theirs[name]) for name in mine)


def model_types(config: Config) -> frozenset[str]:
    """The registry folders in which entries for a model can lie."""
    if "unet" in config or "transformer" in config:
        return frozenset({"stable-diffusion" if "unet" in config else "diffusion-transformer"})
    text = _text_config(config)
    found = (config.get("model_type"), text.get("model_type") if text else None)
    return frozenset(name for name in found if isinstance(name, str))


def infer_task(config: Config) -> str | None:
    """What a model is exported for unless told otherwise, from the class it was saved as."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    return next((task for suffix, task in _TASKS.items() if name.endswith(suffix)), None)


_TASKS = {
    "ForCausalLM": "text-generation", "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask", "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification", "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice", "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection", "ForAudioClassification": "audio-classification",
    "ForCTC": "automatic-speech-recognition", "ForSemanticSegmentation": "semantic-segmentation",
    "Model": "feature-extraction",
}  # fmt: skip


def _agree(asked: Config, cached: Config, task: str | None) -> bool:
    mine, theirs = _normalise(asked), _normalise(cached)
    if any(name in mine and name not in theirs for name in _CORE):
        return False
    if _labels_matter(task) and _labels(asked) != _labels(cached):
        return False
    defaults = class_defaults(str(asked.get("model_type")))
    for name in mine.keys() | theirs.keys():
        left, right = (side.get(name, defaults.get(name, _UNKNOWN)) for side in (mine, theirs))
        if _UNKNOWN in (left, right) and name not in _NULL_IF_ABSENT:
            continue  # a field that only one release of transformers has
        left, right = (None if value is _UNKNOWN else value for value in (left, right))
        if not (_equal(name, left, right) or (name in _DERIVED and None in (left, right))):
            return False
    return True


def _equal(name: str, left: Any, right: Any) -> bool:
    """Parts of a composite model are sparse in a config.json: what both say decides."""
    both = isinstance(left, Mapping) and isinstance(right, Mapping)
    if both and name.endswith("_config") and name != "quantization_config":
        return not left or not right or _agree_as_parts(left, right)
    return bool(left == right)


_UNKNOWN = "\0unknown"
_NULL_IF_ABSENT = frozenset({"quantization_config", "rope_scaling"})
_DERIVED = frozenset({
    "layer_types", "no_rope_layers", "moe_layers", "n_inner", "attention_chunk_size",
})  # fmt: skip
"""Computed by a class from other fields when null."""


@functools.cache
def class_defaults(model_type: str) -> Config:
    """Default arguments of transformers' configuration class (see ``defaults.json``)."""
    text = Path(__file__).with_name("defaults.json").read_text(encoding="utf-8")
    tables = json.loads(text)["defaults"]
    known = tables.get(model_type)
    if known is None:
        return {}
    return {n: v for n, v in {**tables["*"], **known}.items() if not _IRRELEVANT.fullmatch(n)}


_SAME_IF_NULL = {
    "num_key_value_heads": "num_attention_heads", "num_decoder_layers": "num_layers",
    "pooler_output_size": "hidden_size", "word_embed_proj_dim": "hidden_size",
    "embedding_size": "hidden_size",
}  # fmt: skip
_SPELLINGS = {
    "bloom": {"n_embed": "hidden_size", "num_attention_heads": "n_head",
              "num_hidden_layers": "n_layer"},
}  # fmt: skip
"""Names that a class takes and does not keep (``attribute_map``, ``n_embed`` of BLOOM)."""


def _normalise(config: Config) -> dict[str, Any]:
    """One form for all releases of transformers."""
    defaults = class_defaults(str(config.get("model_type")))
    spelled = _SPELLINGS.get(str(config.get("model_type")), {})
    kept = {spelled.get(n, n): _plain(v) for n, v in config.items() if not _IRRELEVANT.fullmatch(n)}
    if "scale_decoder_outputs" in kept:
        # transformers 5 ties every T5, and remembers here whether it was.
        kept["tie_word_embeddings"] = kept.pop("scale_decoder_outputs")
    _unfold_rope(kept)
    full = {**defaults, **kept}
    for name, source in _SAME_IF_NULL.items():
        if full.get(name, 0) is None:
            kept[name] = full.get(source)
    if full.get("no_rope_layers") == []:
        kept["no_rope_layers"] = None  # as Llama 4 was published: its class counts it as not said
    if full.get("mlp_only_layers", 0) is None:
        kept["mlp_only_layers"] = []
    if full.get("head_dim") is None:
        kept["head_dim"] = _quotient(full.get("hidden_size"), full.get("num_attention_heads"))
    if not full.get("use_sliding_window", True):
        # Whatever the window is, no layer uses it; older releases kept its number.
        kept["use_sliding_window"] = False
        kept["sliding_window"] = kept["max_window_layers"] = kept["layer_types"] = None
    return kept


def _unfold_rope(config: dict[str, Any]) -> None:
    """``rope_parameters`` of transformers 5 into ``rope_theta`` and ``rope_scaling``."""
    parameters = config.pop("rope_parameters", None)
    if isinstance(parameters, dict) and "rope_scaling" not in config:
        by_layer = parameters.get("full_attention")
        if isinstance(by_layer, dict):
            local = parameters.get("sliding_attention")
            if isinstance(local, dict) and "rope_theta" in local:
                config.setdefault("rope_local_base_freq", local["rope_theta"])
            parameters = by_layer
        for name in ("rope_theta", "partial_rotary_factor"):
            if name in parameters:
                config.setdefault(name, parameters[name])
        config["rope_scaling"] = parameters
    scaling: Any = config.get("rope_scaling")
    if isinstance(scaling, dict):
        kind = scaling.get("rope_type", scaling.get("type"))
        # What the configuration says itself as well is there twice.
        said = [n for n in _ROPE_BESIDE if n in config and config[n] == scaling.get(n)]
        rest = {n: v for n, v in scaling.items() if n not in (*_ROPE_WORDS, *said)}
        kind = "longrope" if kind == "su" else kind
        unscaled = kind in (None, "default")
        config["rope_scaling"] = None if unscaled else {"rope_type": kind, **rest}


_ROPE_WORDS = ("type", "rope_type", "rope_theta", "partial_rotary_factor")
_ROPE_BESIDE = ("original_max_position_embeddings",)


def _plain(value: Any) -> Any:
    """Sub-configurations without what shapes no graph either."""
    if isinstance(value, dict):
        return {n: _plain(v) for n, v in value.items() if not _IRRELEVANT.fullmatch(n)}
    return value


def _agree_where_both_say(asked: Config, cached: Config) -> bool:
    mine, theirs = _normalise(asked), _normalise(cached)
    shared = (mine.keys() & theirs.keys()) - _ROLES - {"model_type", "head_dim"}
    return bool(shared) and all(_equal(name, mine[name], theirs[name]) for name in shared)


def _agree_as_parts(asked: Config, cached: Config) -> bool:
    """Parts of a composite model, which leave out what their classes have as default."""
    defaults = class_defaults(str(cached.get("model_type", asked.get("model_type"))))
    return _agree_where_both_say({**defaults, **asked}, {**defaults, **cached})


_ROLES = frozenset({"is_decoder", "is_encoder_decoder"})
"""Set by who takes a model apart."""


def _graph_components(components: Mapping[str, Any]) -> dict[str, Config]:
    return {
        name: config for name, config in components.items()
        if isinstance(config, Mapping) and _GRAPH_COMPONENT.fullmatch(name)
    }  # fmt: skip


_GRAPH_COMPONENT = re.compile(
    r"unet|transformer(_\d)?|text_encoder(_\d)?|controlnet.*|prior|image_encoder"
)


def _text_config(config: Config) -> Config | None:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else None


def _labels_matter(task: str | None) -> bool:
    return any(word in (task or "") for word in _CLASSIFICATION)


def _labels(config: Config) -> int:
    """How many a classification head has: two where nothing is said, as in transformers."""
    names = config.get("id2label")
    if isinstance(names, Mapping):
        return len(names)
    count = config.get("num_labels")
    return count if isinstance(count, int) else 2


def _quotient(size: Any, heads: Any) -> int | None:
    if isinstance(size, int) and isinstance(heads, int) and heads > 0:
        return size // heads
    return None
