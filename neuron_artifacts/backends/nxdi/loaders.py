"""What each generation of vLLM's NxD Inference loader puts into NeuronConfig.

Sources: ``vllm/model_executor/model_loader/neuronx_distributed.py`` of upstreaming-to-vllm (the
``neuron-2.2x-vllm-v0.7.2`` branches and ``main``) and
``vllm_neuron/worker/neuronx_distributed_model_loader.py`` of vllm-neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from typing import Any

from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.backends.nxdi.vllm_lora import Lora, fork_lora, plugin_lora
from neuron_artifacts.errors import SpecError, UnsupportedModelError

LOADERS = (
    "aws-fork-2.22", "aws-fork-2.23", "aws-fork-2.24", "vllm-main", "vllm-neuron-0.2",
    "vllm-neuron-0.5",
)  # fmt: skip

_BLOCK_OPTIONS = (
    "block_size", "chunked_prefill_config", "enable_prefix_caching", "is_block_kv_layout",
    "is_chunked_prefill", "is_prefix_caching", "num_gpu_blocks_override", "pa_num_blocks",
)  # fmt: skip
"""What lays the cache out in blocks: together they make sense, or none of them does."""


@dataclass(frozen=True)
class Speculation:
    """vLLM's speculative decoding options. ``model`` is the draft, exactly as it is given."""

    model: str
    num_tokens: int
    method: str | None = None

    @property
    def is_eagle(self) -> bool:
        """As newer vLLM decides (``SpeculativeConfig.__post_init__``): also by the draft's name."""
        if self.method in ("eagle", "eagle3"):
            return self.method == "eagle"
        return "eagle-" in self.model.lower()


CHUNK_TOKENS = 2048
"""Of one step where vLLM 0.7 chunks prompts and is given no number."""


@dataclass(frozen=True)
class VllmArguments:
    """The vLLM options that reach the configuration, under vLLM's own names.

    ``block_size`` is None where it was not given. ``num_gpu_blocks_override`` is the number the
    user gives; ``max_prompt_length`` exists from the 0.4 plugin on. ``chunked_prefill`` is the
    number of tokens that a step takes, where prompts are chunked.
    """

    tensor_parallel_size: int
    max_num_seqs: int
    max_model_len: int
    dtype: str
    block_size: int | None = None
    enable_prefix_caching: bool = False
    num_gpu_blocks_override: int | None = None
    max_prompt_length: int | None = None
    speculation: Speculation | None = None
    chunked_prefill: int | None = None
    lora: Lora | None = None


def is_plugin(loader: str) -> bool:
    """Whether it is the vllm-neuron plugin rather than a fork of vLLM."""
    return loader.startswith("vllm-neuron-")


def neuron_arguments(
    loader: str, arguments: VllmArguments, override: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments ``loader`` constructs NeuronConfig with.

    Raises
    ------
    SpecError
        The loader would refuse the combination.
    """
    if is_plugin(loader):
        return _plugin_arguments(loader, arguments, dict(deepcopy(override)))
    if arguments.max_prompt_length is not None:
        raise SpecError(f"{loader} does not know max_prompt_length")
    if arguments.speculation is not None:
        if arguments.lora is not None:
            raise SpecError(f"{loader} refuses LoRA with speculation")
        return {**_fork_speculation(loader, arguments, override), **deepcopy(override)}
    rest = dict(deepcopy(override))
    kwargs = {**_fork_plain(loader, arguments, override), **fork_lora(loader, arguments.lora, rest)}
    kwargs |= rest
    if loader == "aws-fork-2.24":
        _check_prefix_caching(arguments, kwargs)
        if arguments.chunked_prefill is not None:
            _check_chunks(kwargs)
    return kwargs


def effective_block_size(loader: str, arguments: VllmArguments, override: Mapping[str, Any]) -> int:
    """The block size after vLLM's platform code: without a block layout, one block a sequence.

    Raises
    ------
    SpecError
        A block layout is asked for and no block size is given.
    """
    layout = arguments.enable_prefix_caching
    if loader == "aws-fork-2.24":
        layout = layout or arguments.chunked_prefill is not None
        names = ("is_block_kv_layout", "is_prefix_caching", "is_chunked_prefill")
        layout = layout or any(override.get(name, False) for name in names)
    elif not is_plugin(loader):
        layout = False
    if not layout:
        return arguments.max_model_len
    if arguments.block_size is None:
        raise SpecError(
            "a cache of blocks needs a block size",
            hint="give --block-size as vLLM gets it",
            options=_BLOCK_OPTIONS,
        )
    return arguments.block_size


def names_draft_class(loader: str) -> bool:
    """Whether the draft is built with, and recorded with, the class of its own architecture."""
    return loader == "vllm-neuron-0.5"


def draft_fields(
    loader: str, target: Mapping[str, Any], override: Mapping[str, Any]
) -> dict[str, Any]:
    """The draft's NeuronConfig: a copy of the target's with what the loader sets on it.

    The forks set ``trace_tokengen_model`` even where it is no field any more, so it shows, and so
    does whatever ``override`` has under ``draft_overrides``.
    """
    draft = deepcopy(dict(target))
    is_eagle = bool(target["enable_eagle_speculation"])
    if not is_eagle:
        draft["speculation_length"] = 0
    draft["enable_fused_speculation"] = False
    if target.get("draft_model_modules_to_not_convert"):
        draft["modules_to_not_convert"] = target["draft_model_modules_to_not_convert"]
    if is_eagle:
        draft["is_eagle_draft"] = True
    if not is_plugin(loader):
        draft["trace_tokengen_model"] = True
        if is_eagle:
            draft["sequence_parallel_enabled"] = False
    if names_draft_class(loader):
        draft |= deepcopy(dict(override.get("draft_overrides") or {}))
    return draft


def _common(arguments: VllmArguments) -> dict[str, Any]:
    return {
        "tp_degree": arguments.tensor_parallel_size,
        "batch_size": arguments.max_num_seqs,
        "max_context_length": arguments.max_model_len,
        "seq_len": arguments.max_model_len,
        "enable_bucketing": True,
        "quantized": False,
        "torch_dtype": arguments.dtype,
    }


def _plain(arguments: VllmArguments) -> dict[str, Any]:
    return {
        **_common(arguments),
        "ctx_batch_size": 1,
        "is_continuous_batching": arguments.max_num_seqs > 1,
        "padding_side": "right",
        "on_device_sampling_config": {"dynamic": True, "deterministic": False},
    }


def _fork_plain(
    loader: str, arguments: VllmArguments, override: Mapping[str, Any]
) -> dict[str, Any]:
    kwargs = _plain(arguments)
    if loader in ("aws-fork-2.23", "vllm-main"):
        kwargs["sequence_parallel_enabled"] = True
    if loader == "vllm-main":
        kwargs["is_continuous_batching"] = True
    if loader == "aws-fork-2.24":
        block_size = effective_block_size(loader, arguments, override)
        blocks = ceil(arguments.max_model_len / block_size)
        kwargs |= {
            "pa_num_blocks": blocks * arguments.max_num_seqs,
            "pa_block_size": block_size,
            "is_block_kv_layout": arguments.enable_prefix_caching,
        }
        if arguments.chunked_prefill is not None:
            kwargs |= {
                "batch_size": 1,
                "is_continuous_batching": False,
                "max_context_length": arguments.chunked_prefill,
                "is_block_kv_layout": True,
                "chunked_prefill_config": {"max_num_seqs": arguments.max_num_seqs},
            }
    return kwargs


def _fork_speculation(
    loader: str, arguments: VllmArguments, override: Mapping[str, Any]
) -> dict[str, Any]:
    """The forks have a second set of defaults for speculation; EAGLE comes from the override."""
    assert arguments.speculation is not None
    kwargs = {
        **_common(arguments),
        "speculation_length": arguments.speculation.num_tokens,
        "trace_tokengen_model": False,
        "enable_fused_speculation": True,
        "on_device_sampling_config": {"top_k": 1, "do_sample": False},
    }
    if loader in ("aws-fork-2.24", "vllm-main"):
        kwargs |= {"ctx_batch_size": 1, "is_continuous_batching": True}
    if loader == "aws-fork-2.24":
        block_size = effective_block_size(loader, arguments, override)
        kwargs |= {
            "pa_num_blocks": arguments.max_model_len // block_size * arguments.max_num_seqs,
            "pa_block_size": block_size,
            "is_prefix_caching": arguments.enable_prefix_caching,
            "is_block_kv_layout": arguments.enable_prefix_caching,
        }
    return kwargs


def _plugin_arguments(
    loader: str, arguments: VllmArguments, override: dict[str, Any]
) -> dict[str, Any]:
    _take_prompt_length(loader, arguments, override)
    block_size = effective_block_size(loader, arguments, override)
    # vLLM keeps one block for itself, so the plugin counts one more than the user.
    asked = arguments.num_gpu_blocks_override
    blocks = arguments.max_model_len // block_size * arguments.max_num_seqs
    kwargs = {
        **_plain(arguments),
        "lora_config": plugin_lora(loader, arguments.lora, arguments.max_num_seqs, override),
        "pa_num_blocks": blocks if asked is None else asked + 1,
        "pa_block_size": block_size,
        "is_block_kv_layout": arguments.enable_prefix_caching,
        "is_prefix_caching": arguments.enable_prefix_caching,
    }
    if arguments.speculation is not None:
        kwargs |= {
            "enable_fused_speculation": True,
            "speculation_length": arguments.speculation.num_tokens,
        }
        if arguments.speculation.is_eagle:
            kwargs["enable_eagle_speculation"] = True
    if not override.get("chunked_prefill_config", True):
        del override["chunked_prefill_config"]
    kwargs |= override
    for name in ("text_neuron_config", "vision_neuron_config"):
        kwargs.pop(name, None)
    if names_draft_class(loader):
        kwargs.pop("draft_overrides", None)
    if "quantized" in override:
        kwargs.setdefault("quantized_checkpoints_path", None)
        kwargs.setdefault("quantization_type", "per_tensor_symmetric")
        kwargs.setdefault("quantization_dtype", "int8")
    _check_blocks(arguments, override, kwargs, block_size)
    _check_prefix_caching(arguments, kwargs)
    return kwargs


def _take_prompt_length(loader: str, arguments: VllmArguments, override: dict[str, Any]) -> None:
    length = arguments.max_prompt_length
    if length is None:
        return
    if loader == "vllm-neuron-0.2":
        raise SpecError(f"{loader} does not know max_prompt_length")
    if override.get("max_context_length", length) != length:
        raise SpecError(
            f"max_context_length {override['max_context_length']} and max_prompt_length {length} "
            "differ"
        )
    override["max_context_length"] = length


def _check_blocks(
    arguments: VllmArguments, override: Mapping[str, Any], kwargs: dict[str, Any], block_size: int
) -> None:
    if not kwargs.get("is_block_kv_layout"):
        return
    asked = arguments.num_gpu_blocks_override
    if "pa_num_blocks" in override:
        if asked is None or override["pa_num_blocks"] != asked:
            raise SpecError(
                f"pa_num_blocks {override['pa_num_blocks']} needs --num-gpu-blocks-override of "
                "the same number",
                options=_BLOCK_OPTIONS,
            )
        kwargs["pa_num_blocks"] = asked + 1
    least = ceil(arguments.max_model_len / block_size) * arguments.max_num_seqs
    have = kwargs["pa_num_blocks"] if asked is None else asked
    if have < least:
        raise SpecError(
            f"{least} blocks are needed for max_model_len, and there are {have}",
            options=_BLOCK_OPTIONS,
        )


def _check_prefix_caching(arguments: VllmArguments, kwargs: Mapping[str, Any]) -> None:
    if not arguments.enable_prefix_caching:
        return
    for name in ("is_prefix_caching", "is_block_kv_layout"):
        if not kwargs.get(name):
            raise SpecError(
                f"the loader refuses prefix caching without {name}",
                hint=f'put "{name}": true into --override-neuron-config',
                options=_BLOCK_OPTIONS,
            )


def _check_chunks(kwargs: Mapping[str, Any]) -> None:
    for name in ("chunked_prefill_config", "is_block_kv_layout"):
        if not kwargs.get(name):
            raise SpecError(
                f"the loader refuses chunked prefill without {name}", options=_BLOCK_OPTIONS
            )


_DTYPES = {
    "half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float": "float32",
    "float32": "float32",
}  # fmt: skip


def resolve_dtype(
    loader: str, dtype: str, config: Mapping[str, Any], level: SdkLevel | None
) -> str:
    """vLLM's ``--dtype``: ``auto`` is the model's, except that float32 models are narrowed.

    Which of ``config.json``'s two spellings vLLM reads depends on the level's transformers; with
    no level, either will do.

    Raises
    ------
    SpecError, UnsupportedModelError
        It is not known, or the model names none and vLLM would look into the weights.
    """
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise SpecError(f"vLLM has no dtype {dtype!r} here", hint=f"auto, {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    of_model = config.get("torch_dtype")
    if level is None or level.reads_dtype:
        of_model = config.get("dtype") or of_model
    is_old = loader.startswith("aws-fork-")
    if of_model is None and not is_old:
        raise SpecError(
            "config.json names no dtype that this level's transformers reads, so vLLM would look "
            "at the weights",
            hint="give --dtype",
        )
    if of_model in (None, "float", "float32"):
        return "float16" if is_old else "bfloat16"
    if of_model not in _DTYPES:
        raise UnsupportedModelError(f"vLLM does not run dtype {of_model!r} here", hint="--dtype")
    return _DTYPES[str(of_model)]
