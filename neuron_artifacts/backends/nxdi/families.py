"""Which NxD Inference class serves an architecture: per SDK level and vLLM loader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.errors import UnsupportedModelError

_MODELS = "neuronx_distributed_inference.models"


@dataclass(frozen=True)
class Family:
    """A model class of NxD Inference, as far as its configuration shows it.

    ``since`` is the first SDK level that has its module, ``listed_since`` the first that has it
    in the registry the plugin looks in. ``attention`` names a class that replaces ``attn_cls``,
    ``required`` the attributes without which a model's configuration is refused.
    """

    name: str
    model_class: str
    since: str
    listed_since: str
    required: tuple[str, ...]
    is_moe: bool = False
    attention: str | None = None

    @property
    def module(self) -> str:
        return f"{_MODELS}.{self.name}.modeling_{self.name}"

    @property
    def application_class(self) -> str:
        return self.model_class.removesuffix("Model") + "ForCausalLM"


_DECODER = (
    "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "vocab_size", "max_position_embeddings", "rope_theta", "rms_norm_eps",
)  # fmt: skip
_DENSE = (*_DECODER, "pad_token_id", "hidden_act")

FAMILIES = {
    "LlamaForCausalLM": Family("llama", "NeuronLlamaModel", "2.21", "2.21", _DENSE),
    "MixtralForCausalLM": Family(
        "mixtral", "NeuronMixtralModel", "2.21", "2.21",
        (*_DECODER, "pad_token_id", "num_local_experts", "num_experts_per_tok"), is_moe=True,
    ),
    "DbrxForCausalLM": Family(
        "dbrx", "NeuronDbrxModel", "2.21", "2.21",
        ("d_model", "n_heads", "max_seq_len", "emb_pdrop", "resid_pdrop", "pad_token_id",
         "vocab_size", "attn_config", "ffn_config"), is_moe=True,
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2", "NeuronQwen2Model", "2.24", "2.25", _DENSE, attention="NeuronQwen2Attention"
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3", "NeuronQwen3Model", "2.25", "2.25", (*_DENSE, "head_dim"),
        attention="NeuronQwen3Attention",
    ),
    "Qwen3MoeForCausalLM": Family(
        "qwen3_moe", "NeuronQwen3MoeModel", "2.25", "2.26",
        (*_DECODER, "head_dim", "hidden_act", "moe_intermediate_size", "norm_topk_prob",
         "num_experts", "num_experts_per_tok", "rope_scaling", "tie_word_embeddings"),
        is_moe=True,
    ),
}  # fmt: skip
"""Keyed by the name in a model's ``architectures``."""

_LISTED_ELSEWHERE = frozenset({
    "gemma3", "gptoss", "llama4", "llava", "mllama", "pixtral", "qwen2vl", "qwen3vl",
})  # fmt: skip
"""What the registry knows besides, under any level, without underscores."""

_IMAGE_TO_TEXT = frozenset({"llama4", "llava", "pixtral", "qwen2vl", "qwen3vl"})
"""Those of them that are built of a text and a vision part each."""

_FORK_TABLE = ("LlamaForCausalLM", "MistralForCausalLM", "DbrxForCausalLM", "MixtralForCausalLM")
_FORK_TABLES = {
    "aws-fork-2.22": _FORK_TABLE,
    "aws-fork-2.23": _FORK_TABLE,
    "aws-fork-2.24": (*_FORK_TABLE, "Qwen2ForCausalLM"),
    "vllm-main": _FORK_TABLE,
}


def family_for(config: Mapping[str, Any], loader: str | None, level: SdkLevel) -> Family:
    """The class that ``loader`` takes for a model, or NxD Inference itself with no loader.

    Raises
    ------
    UnsupportedModelError
        There is none at this level.
    """
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise UnsupportedModelError("config.json names no architectures")
    if loader in _FORK_TABLES:
        chosen = [name for name in architectures if name in _FORK_TABLES[loader]]
        # The forks serve Mistral with the Llama classes.
        name = str(chosen[0] if chosen else architectures[0])
        family = FAMILIES.get("LlamaForCausalLM" if name == "MistralForCausalLM" else name)
        known = bool(chosen)
    else:
        name = str(architectures[0])
        family = FAMILIES.get(name) if loader is None else _by_plugin_rule(name, loader)
        known = family is not None
    if family is None or not known or level.before(_since(family, loader)):
        where = f"NxD Inference of SDK {level.name}" + (f" under {loader}" if loader else "")
        raise UnsupportedModelError(
            f"{where} has no class for {name} that is known here", hint=_who_knows(name, loader)
        )
    return family


def is_image_to_text(config: Mapping[str, Any]) -> bool:
    """Whether NxD Inference has the architecture as two models, ``NeuronBaseForImageToText``."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    return name.removeprefix("Neuron").partition("For")[0].lower() in _IMAGE_TO_TEXT


def _who_knows(name: str, loader: str | None) -> str:
    names = _FORK_TABLES.get(loader or "", tuple(FAMILIES))
    if name in names and name in FAMILIES:
        return f"it came with SDK {_since(FAMILIES[name], loader)}"
    return f"known: {', '.join(names)}"


def draft_family(config: Mapping[str, Any], target: Family, level: SdkLevel) -> Family:
    """The class that the plugin takes for a draft: its own, or the target's if there is none.

    Raises
    ------
    UnsupportedModelError
        It has one whose text is not known here.
    """
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return target
    name = str(architectures[0])
    family = _by_plugin_rule(name, "vllm-neuron-0.5")
    if family is not None and level.since(family.listed_since):
        return family
    if name.removeprefix("Neuron").partition("For")[0].lower() in _LISTED_ELSEWHERE:
        raise UnsupportedModelError(f"the text of NxD Inference's class for {name} is not known")
    return target


def _by_plugin_rule(name: str, loader: str) -> Family | None:
    """The plugin splits the architecture in two and looks the parts up in lower case."""
    if loader == "vllm-neuron-0.5":
        name = name.removeprefix("Neuron")
    model, _, task = name.partition("For")
    if task not in ("CausalLM", "ConditionalGeneration"):
        return None
    spelled = {key.removesuffix("ForCausalLM").lower(): family for key, family in FAMILIES.items()}
    return spelled.get(model.lower())


def _since(family: Family, loader: str | None) -> str:
    is_plugin = loader is not None and loader not in _FORK_TABLES
    return family.listed_since if is_plugin else family.since
