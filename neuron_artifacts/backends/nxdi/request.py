"""From a request to the arguments NeuronConfig is constructed with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.backends.nxdi.loaders import (
    LOADERS,
    Speculation,
    VllmArguments,
    is_plugin,
    neuron_arguments,
    resolve_dtype,
)
from neuron_artifacts.errors import RefusedError, SpecError
from neuron_artifacts.spec import CompileSpec

DEFAULT_SEQ_LEN = 2048
"""Where nothing is asked: the same as on every other backend."""

_LOADER_OF_LEVEL = {
    "2.21": "aws-fork-2.23",  # the two forks give the same arguments
    "2.22": "aws-fork-2.22",
    "2.23": "aws-fork-2.23",
    "2.24": "aws-fork-2.24",
    "2.25": "aws-fork-2.24",
    "2.26": "vllm-neuron-0.2",
    "2.27": "vllm-neuron-0.2",
}
"""Which generation of vLLM goes with an SDK level; later levels have the newest plugin."""

_EXPLICIT = (
    "max_context_length", "context_encoding_buckets", "token_generation_buckets",
)  # fmt: skip
_MULTIMODAL = ("text_neuron_config", "vision_neuron_config")
_OURS = ("block_size", "enable_prefix_caching", "num_gpu_blocks_override")


@dataclass(frozen=True)
class NeuronRequest:
    """What is constructed there.

    ``arguments`` are NeuronConfig's own; ``multimodal`` holds the two of an image-to-text model.
    ``seq_len`` and ``batch_size`` are what is served.
    """

    loader: str
    arguments: Mapping[str, Any]
    multimodal: Mapping[str, Any]
    speculation: Speculation | None
    vllm: VllmArguments
    override: Mapping[str, Any]


def make_request(
    spec: CompileSpec,
    config: Mapping[str, Any],
    *,
    sdk: str,
    plugin_version: str | None = None,
) -> NeuronRequest:
    """Start from what vLLM's loader of this SDK level would ask for, so that it can serve it.

    What the request says wins over the loader's defaults, and ``override_neuron_config`` over
    all. Weights are sharded into the artifact unless ``save_sharded_checkpoint`` is refused:
    without them it would need the checkpoint at the place where it was compiled.

    Raises
    ------
    SpecError
        The loader would refuse the combination.
    RefusedError
        A value that the loader computes with is none.
    """
    loader = spec.vllm_loader or loader_of_level(sdk, plugin_version)
    if loader not in LOADERS:
        raise SpecError(
            f"unknown vllm_loader {loader!r}",
            hint=f"one of {', '.join(LOADERS)}",
            options=("vllm_loader",),
        )
    override = deepcopy(dict(spec.extra))
    arguments = _vllm_arguments(spec, config, loader, override)
    multimodal = {name: override.pop(name) for name in _MULTIMODAL if name in override}
    kwargs: dict[str, Any] = {"save_sharded_checkpoint": True}
    kwargs |= neuron_arguments(loader, arguments, _with_lora(override))
    if not spec.enable_bucketing:
        kwargs["enable_bucketing"] = False
    for name in _EXPLICIT:
        value = getattr(spec, name)
        if value is not None:
            kwargs[name] = list(value) if isinstance(value, tuple) else value
    return NeuronRequest(
        loader, kwargs, multimodal, arguments.speculation, arguments, dict(spec.extra)
    )


def loader_of_level(sdk: str, plugin_version: str | None = None) -> str:
    """The generation of vLLM that goes with an SDK level and the plugin installed."""
    if plugin_version:
        is_old = re.match(r"0\.[0-3](\.|$)", plugin_version)
        return "vllm-neuron-0.2" if is_old else "vllm-neuron-0.5"
    return _LOADER_OF_LEVEL.get(sdk, "vllm-neuron-0.5")


def _vllm_arguments(
    spec: CompileSpec, config: Mapping[str, Any], loader: str, override: dict[str, Any]
) -> VllmArguments:
    ours = {name: override.pop(name) for name in _OURS if name in override}
    for name in ("block_size", "num_gpu_blocks_override"):
        _require_count(name, ours.get(name))
    return VllmArguments(
        tensor_parallel_size=spec.tp_degree,
        max_num_seqs=spec.batch_size,
        max_model_len=spec.seq_len or _default_length(config),
        dtype=resolve_dtype(loader, spec.torch_dtype, config, None),
        block_size=ours.get("block_size"),
        enable_prefix_caching=bool(
            ours.get("enable_prefix_caching", override.get("is_prefix_caching", False))
        ),
        num_gpu_blocks_override=ours.get("num_gpu_blocks_override"),
        speculation=_speculation(spec, loader, override),
    )


def _speculation(spec: CompileSpec, loader: str, override: dict[str, Any]) -> Speculation | None:
    if spec.speculative_model is None:
        for name in ("num_speculative_tokens", "speculative_method"):
            if getattr(spec, name) is not None:
                raise SpecError(f"{name} needs speculative_model", options=(name,))
        return None
    tokens = spec.num_speculative_tokens or override.get("speculation_length")
    if not isinstance(tokens, int):
        raise SpecError(
            "speculative_model needs num_speculative_tokens",
            options=("speculative_model", "speculative_method"),
        )
    if spec.speculative_method == "eagle" and not is_plugin(loader):
        # The forks read it from the override only; here it means the same on every loader.
        override.setdefault("enable_eagle_speculation", True)
    return Speculation(spec.speculative_model, tokens, spec.speculative_method)


def _default_length(config: Mapping[str, Any]) -> int:
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    limit = inner.get("max_position_embeddings")
    return min(limit, DEFAULT_SEQ_LEN) if isinstance(limit, int) else DEFAULT_SEQ_LEN


def _with_lora(override: Mapping[str, Any]) -> dict[str, Any]:
    """``lora_modules`` of vLLM's forks (name and path each) as NeuronConfig's ``lora_config``."""
    rest = dict(override)
    modules = rest.pop("lora_modules", None)
    if modules is None:
        return rest
    try:
        paths = {entry["name"]: entry["path"] for entry in modules}
    except (TypeError, KeyError):
        raise SpecError(
            "lora_modules must be a list of objects with name and path",
            options=("lora_modules",),
        ) from None
    config = rest.pop("lora_config", None) or {}
    if not isinstance(config, Mapping):
        raise RefusedError(
            f"lora_config must be an object, and is {config!r}", options=("lora_config",)
        )
    config = dict(config)
    for name in ("target_modules", "max_loras", "max_lora_rank"):
        if name in rest:
            config[name] = rest.pop(name)
    _require_count("max_loras", config.get("max_loras"))
    if config.get("max_loras") is None:
        config["max_loras"] = len(paths)
    if len(paths) > config["max_loras"]:
        raise SpecError(
            f"{len(paths)} LoRA modules are more than max_loras {config['max_loras']}",
            options=("lora_modules", "max_loras"),
        )
    return {**rest, "lora_config": {**config, "lora_ckpt_paths": paths}}


def _require_count(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RefusedError(
            f"{name} must be a whole number of 1 or more, and is {value!r}", options=(name,)
        )
