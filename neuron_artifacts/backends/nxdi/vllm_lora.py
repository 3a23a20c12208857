"""What vLLM's loaders make of ``--enable-lora``: LoraServingConfig's arguments.

Sources: ``_get_nxdi_lora_config`` of ``neuronx_distributed_model_runner.py``, in the forks'
``vllm/worker`` and in the plugin's ``vllm_neuron/worker``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuron_artifacts.errors import SpecError


@dataclass(frozen=True)
class Lora:
    """vLLM's options beside ``--enable-lora``. The adapters come from the overrides."""

    max_loras: int = 1
    max_lora_rank: int = 16
    max_cpu_loras: int | None = None


def fork_lora(loader: str, lora: Lora | None, override: dict[str, Any]) -> dict[str, Any]:
    """NeuronConfig's argument for it; the adapters' names are taken out of ``override``.

    Raises
    ------
    SpecError
        The loader would refuse them.
    """
    if lora is None:
        return {}
    modules, targets = (override.pop(name, None) for name in ("lora_modules", "target_modules"))
    if not modules:
        raise SpecError(f"LoRA under {loader} needs lora_modules in the overrides")
    try:
        paths = {entry["name"]: entry["path"] for entry in modules}
    except (TypeError, KeyError):
        raise SpecError("lora_modules must be a list of objects with name and path") from None
    if len(paths) > lora.max_loras:
        raise SpecError(f"{len(paths)} LoRA modules are more than max_loras {lora.max_loras}")
    if loader == "vllm-main":
        return {}  # it passes them under a name that NeuronConfig drops
    return {
        "lora_config": {
            "max_loras": lora.max_loras,
            "max_lora_rank": lora.max_lora_rank,
            "target_modules": targets,
            "lora_ckpt_paths": paths,
        }
    }


def plugin_lora(
    loader: str, lora: Lora | None, batch_size: int, override: dict[str, Any]
) -> dict[str, Any] | None:
    """The same for the plugin, from 0.4 on: a file names the adapters, which load dynamically.

    Raises
    ------
    SpecError
        The loader would refuse them.
    """
    if lora is None:
        return None
    if loader == "vllm-neuron-0.2":
        raise SpecError(f"{loader} has no LoRA")
    on_host = lora.max_loras if lora.max_cpu_loras is None else lora.max_cpu_loras
    if on_host < lora.max_loras:
        raise SpecError(f"max_cpu_loras {on_host} is less than max_loras {lora.max_loras}")
    return {
        "max_loras": lora.max_loras,
        "max_lora_rank": lora.max_lora_rank,
        "target_modules": override.pop("target_modules", None),
        "lora_ckpt_json": override.pop("lora_ckpt_json", None),
        "max_cpu_loras": on_host,
        "lora_memory_transpose": False,
        "dynamic_multi_lora": True,
        "batch_size": batch_size,
        "base_model_quantized": override.get("quantized", False),
    }
