"""LoraServingConfig as data: it looks into each adapter's folder while it is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.errors import SpecError

_BASE: dict[str, Any] = {
    "max_loras": 1,
    "max_lora_rank": 16,
    "target_modules": None,
    "lora_bias": "none",
    "lora_ckpt_paths": None,
}


def lora_serving(given: Any, level: SdkLevel) -> Any:
    """LoraServingConfig for the entries of ``given``; anything but an object stays as it is.

    Raises
    ------
    SpecError
        The class would raise, or its text depends on the order of a Python set: it collects the
        adapters' target modules in one.
    """
    if not isinstance(given, dict):
        return given
    table = _defaults(level)
    if unknown := sorted(set(given) - set(table)):
        raise SpecError(f"lora_config has no entry {unknown[0]!r} in SDK {level.name}")
    fields = {**table, **deepcopy(given)}
    if level.before("2.22"):
        return fields
    if fields.get("lora_ckpt_json") is not None:
        raise SpecError("lora_config.lora_ckpt_json is not read here", hint="name the adapters")
    if level.since("2.29") and fields["enable_base_model_only"]:
        fields["max_loras"] += 1
        fields["max_cpu_loras"] += 1
    _set_paths(fields, level)
    _set_from_adapters(fields)
    return fields


def _defaults(level: SdkLevel) -> dict[str, Any]:
    if level.before("2.22"):
        return {**_BASE, "max_loras_on_cpu": 2}
    common = {**_BASE, "lora_memory_transpose": True}
    if level.before("2.27"):
        return {**common, "max_loras_on_cpu": 2, "lora_shard_linear_layer": False}
    newer = {
        **common,
        "max_cpu_loras": 100,
        "batch_size": 1,
        "lora_ckpt_paths_cpu": None,
        "lora_ckpt_json": None,
        "lora_shard_linear_layer": True,
        "is_context_encoding": False,
        "dynamic_multi_lora": False,
        "eviction_policy": "lru",
        "lfu_decay_period": 128,
        "base_model_quantized": False,
    }
    return {**newer, "enable_base_model_only": False} if level.since("2.29") else newer


def _set_paths(fields: dict[str, Any], level: SdkLevel) -> None:
    fields["lora_ckpt_paths"] = _adapters(fields["lora_ckpt_paths"])
    if level.before("2.27"):
        return
    on_host = _adapters(fields["lora_ckpt_paths_cpu"]) if fields["dynamic_multi_lora"] else {}
    if fields["dynamic_multi_lora"]:
        on_host |= fields["lora_ckpt_paths"]
    fields["lora_ckpt_paths_cpu"] = on_host
    spare = int(fields.get("enable_base_model_only", False))
    fields["max_loras"] = max(fields["max_loras"], len(fields["lora_ckpt_paths"]) + spare)
    if fields["dynamic_multi_lora"] and len(on_host) + spare > fields["max_cpu_loras"]:
        raise SpecError(f"{len(on_host)} adapters are more than max_cpu_loras allows")


def _adapters(given: Any) -> dict[str, str]:
    """Adapters by id, from an object or from a list of ``id:path``."""
    if given is None:
        return {}
    pairs = given.items() if isinstance(given, dict) else [_split(entry) for entry in given]
    adapters: dict[str, str] = {}
    for name, path in pairs:
        if name in adapters:
            raise SpecError(f"two LoRA adapters are called {name!r}")
        adapters[name] = str(Path(path).expanduser()) if path.startswith("~") else path
    return adapters


def _split(entry: str) -> tuple[str, str]:
    name, separator, path = entry.partition(":")
    if not separator:
        raise SpecError(f"LoRA adapter {entry!r} is not of the form id:path")
    return name.strip(), path.split(":")[0].strip()


def _set_from_adapters(fields: dict[str, Any]) -> None:
    paths = [*fields["lora_ckpt_paths"].values(), *fields.get("lora_ckpt_paths_cpu", {}).values()]
    configs = [_read_adapter(path) for path in paths]
    wanted = {module for config in configs for module in config["target_modules"]}
    if fields["target_modules"] is None or not wanted <= set(fields["target_modules"]):
        if len(wanted) > 1:
            raise SpecError(
                "the order of lora_config.target_modules depends on Python's hash seed there",
                hint="list every adapter's modules in target_modules",
            )
        fields["target_modules"] = list(wanted)
    ranks = [config.get("r", config.get("lora_rank")) for config in configs]
    fields["max_lora_rank"] = max([fields["max_lora_rank"], *ranks])


def _read_adapter(path: str) -> Mapping[str, Any]:
    try:
        config = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"LoRA adapter {path} has no readable adapter_config.json") from error
    if not isinstance(config, dict) or not isinstance(config.get("target_modules"), list):
        raise SpecError(f"LoRA adapter {path} names no target_modules")
    if not isinstance(config.get("r", config.get("lora_rank")), int):
        raise SpecError(f"LoRA adapter {path} names no rank")
    return config
