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
    in the registry the plugin looks in. ``attention`` names a class that replaces ``attn_cls``.
    """

    name: str
    model_class: str
    since: str
    listed_since: str
    is_moe: bool = False
    attention: str | None = None

    @property
    def module(self) -> str:
        return f"{_MODELS}.{self.name}.modeling_{self.name}"


FAMILIES = {
    "LlamaForCausalLM": Family("llama", "NeuronLlamaModel", "2.21", "2.21"),
    "MixtralForCausalLM": Family("mixtral", "NeuronMixtralModel", "2.21", "2.21", is_moe=True),
    "DbrxForCausalLM": Family("dbrx", "NeuronDbrxModel", "2.21", "2.21", is_moe=True),
    "Qwen2ForCausalLM": Family(
        "qwen2", "NeuronQwen2Model", "2.24", "2.25", attention="NeuronQwen2Attention"
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3", "NeuronQwen3Model", "2.25", "2.25", attention="NeuronQwen3Attention"
    ),
    "Qwen3MoeForCausalLM": Family("qwen3_moe", "NeuronQwen3MoeModel", "2.26", "2.26", is_moe=True),
}
"""Keyed by the name in a model's ``architectures``."""

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
        family = FAMILIES.get(name)
        known = family is not None
    if family is None or not known or level.before(_since(family, loader)):
        where = f"NxD Inference of SDK {level.name}" + (f" under {loader}" if loader else "")
        raise UnsupportedModelError(f"{where} has no class for {name} that is known here")
    return family


def _since(family: Family, loader: str | None) -> str:
    is_plugin = loader is not None and loader not in _FORK_TABLES
    return family.listed_since if is_plugin else family.since
