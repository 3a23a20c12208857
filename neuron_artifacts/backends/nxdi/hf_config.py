"""From a model's ``config.json`` to what transformers makes of it, at a given version.

NxD Inference hashes the configuration object of the installed transformers, with every default
its class fills in. The tables of defaults are made by ``scripts/make_hf_defaults.py``; the
derivations below are the classes' few computed attributes, which the tables name.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from neuron_artifacts.backends.nxdi.levels import read_hf_defaults
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError

# Attributes that transformers keeps to itself, and spellings that do not become attributes.
_NOT_SERIALIZED = frozenset({
    "_auto_class", "_commit_hash", "_attn_implementation", "_attn_implementation_internal",
    "attn_implementation", "base_model_tp_plan", "base_model_pp_plan", "name_or_path",
    "num_labels",
})  # fmt: skip

_UNREADABLE = frozenset({"attribute_map", "use_return_dict"})

_TORCH_DTYPES = {
    name: name
    for name in ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
} | {"half": "float16", "float": "float32", "double": "float64"}
"""Names that torch has for the types of weights, and the name each prints as."""


def load_hf_config(
    config: Mapping[str, Any], name_or_path: str, version: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """``AutoConfig.from_pretrained(name_or_path).to_dict()`` and its attribute map.

    ``config`` is the parsed ``config.json`` and stays untouched. Keys of ``id2label`` and
    ``pruned_heads`` are integers in the result, as they are in transformers.

    Raises
    ------
    UnsupportedModelError
        No table for this model type at this version.
    ModelFormatError
        transformers would not accept the file.
    """
    table = read_hf_defaults(version)
    model_type = config.get("model_type")
    if model_type == "mistral" and "layer_types" in config and version.startswith("4.57."):
        model_type = "ministral"
    if not isinstance(model_type, str) or model_type not in table["models"]:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not known for transformers {version}",
            hint=f"known: {', '.join(sorted(table['models']))}",
        )
    cls = table["models"][model_type]
    attributes = _fill_in(config, table["base"], cls)
    attributes |= {
        "_name_or_path": name_or_path,
        "model_type": model_type,
        "transformers_version": version,
    }
    return attributes, dict(cls["attribute_map"])


def _fill_in(
    config: Mapping[str, Any], base: Mapping[str, Any], cls: Mapping[str, Any]
) -> dict[str, Any]:
    if unreadable := sorted(_UNREADABLE & set(config)):
        raise ModelFormatError(f"{unreadable[0]!r} in config.json is not accepted")
    given = {
        cls["attribute_map"].get(name, name): deepcopy(value)
        for name, value in config.items()
        if name not in _NOT_SERIALIZED and name not in cls["unstored"]
    }
    attributes: dict[str, Any] = {**deepcopy(base), **deepcopy(cls["parameters"]), **given}
    for name, value in cls["null_means"].items():
        if attributes[name] is None:
            attributes[name] = deepcopy(value)
    _take_dtype(attributes, base, given)
    _label(attributes, config, null_counts="dtype" in base)
    attributes["pruned_heads"] = _integer_keys("pruned_heads", attributes["pruned_heads"])
    try:
        _derive(attributes, frozenset(cls["rules"]))
        for name, sub in cls["sub_configs"].items():
            attributes[name] = _fill_in_sub(given.get(name), base, sub)
        if "key-value-heads-from-attn-config" in cls["rules"]:
            attributes["num_key_value_heads"] = attributes["attn_config"]["kv_n_heads"]
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise ModelFormatError(f"config.json holds a value of the wrong type: {error}") from None
    return attributes


def _fill_in_sub(
    config: Mapping[str, Any] | None, base: Mapping[str, Any], cls: Mapping[str, Any]
) -> dict[str, Any]:
    config = config or {}
    if unknown := sorted(set(config) - {*cls["parameters"], "model_type"}):
        raise ModelFormatError(f"{unknown[0]!r} inside a part of config.json is not accepted")
    attributes = _fill_in(config, base, cls)
    attributes.pop("transformers_version", None)
    return {**attributes, "_name_or_path": "", "model_type": ""}


def _derive(attributes: dict[str, Any], rules: frozenset[str]) -> None:
    if "key-value-heads-from-heads" in rules and attributes["num_key_value_heads"] is None:
        attributes["num_key_value_heads"] = attributes["num_attention_heads"]
    if "head-dim-from-hidden-size" in rules and attributes["head_dim"] is None:
        attributes["head_dim"] = attributes["hidden_size"] // attributes["num_attention_heads"]
    if "sliding-window-needs-its-switch" in rules and not attributes["use_sliding_window"]:
        attributes["sliding_window"] = None
    if "layer-types-from-sliding-window" in rules and attributes["layer_types"] is None:
        first = attributes.get("max_window_layers", 0)
        slides = attributes["sliding_window"] is not None
        attributes["layer_types"] = [
            "sliding_attention" if slides and layer >= first else "full_attention"
            for layer in range(attributes["num_hidden_layers"])
        ]
    scaling = attributes.get("rope_scaling")
    if "rope-type-from-type" in rules and scaling is not None and "type" in scaling:
        scaling["rope_type"] = scaling["type"]


def _take_dtype(
    attributes: dict[str, Any], base: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Fold ``torch_dtype`` into ``dtype`` where this version knows the newer name."""
    if "dtype" in base:
        older = attributes.pop("torch_dtype", None)
        if given.get("dtype") is None:
            attributes["dtype"] = older
    else:
        attributes.pop("xla_device", None)  # newer versions keep it
    name = "dtype" if "dtype" in base else "torch_dtype"
    value = attributes[name]
    if value is not None and (not isinstance(value, str) or value not in _TORCH_DTYPES):
        raise ModelFormatError(f"{name} {value!r} in config.json is not a dtype of torch")
    attributes[name] = None if value is None else _TORCH_DTYPES[value]


def _label(attributes: dict[str, Any], config: Mapping[str, Any], *, null_counts: bool) -> None:
    """Name the labels; ``null_counts`` where a null number of them means the default."""
    if config.get("id2label") is not None:
        attributes["id2label"] = _integer_keys("id2label", config["id2label"])
        attributes["label2id"] = deepcopy(config.get("label2id"))
        return
    count = config.get("num_labels")
    is_null = count is None and (null_counts or "num_labels" not in config)
    if not is_null and not isinstance(count, int):
        raise ModelFormatError(f"num_labels {count!r} in config.json is not a number")
    names = [f"LABEL_{label}" for label in range(2 if count is None else count)]
    attributes["id2label"] = dict(enumerate(names))
    attributes["label2id"] = {name: label for label, name in enumerate(names)}


def _integer_keys(name: str, mapping: Any) -> dict[int, Any]:
    try:
        return {int(key): value for key, value in mapping.items()}
    except (AttributeError, ValueError) as error:
        raise ModelFormatError(f"{name} in config.json must map numbers: {error}") from None
