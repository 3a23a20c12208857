"""Paths in NeuronConfig, as a worker finds them: it has a working directory of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_FILES = ("quantized_checkpoints_path", "lora_ckpt_json")
_ADAPTERS = ("lora_ckpt_paths", "lora_ckpt_paths_cpu")
_NESTED = ("lora_config", "text_neuron_config", "vision_neuron_config", "draft_overrides")


def with_absolute_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` with every path in them absolute; what has another form stays as it is.

    Adapters may be an object, a list of ``id:path``, or vLLM's ``lora_modules``. Links are kept:
    what they point to may change, and the name is what was asked for.
    """
    return {name: _absolute(name, value) for name, value in arguments.items()}


def _absolute(name: str, value: Any) -> Any:
    if name in _FILES and isinstance(value, str):
        return _path(value)
    if name in _NESTED and isinstance(value, Mapping):
        return with_absolute_paths(value)
    if name in _ADAPTERS and isinstance(value, Mapping):
        return {adapter: _path(path) for adapter, path in value.items()}
    if name in _ADAPTERS and isinstance(value, (list, tuple)):
        return [_pair(entry) for entry in value]
    if name == "lora_modules" and isinstance(value, (list, tuple)):
        return [
            {**entry, "path": _path(entry["path"])}
            if isinstance(entry, Mapping) and "path" in entry
            else entry
            for entry in value
        ]
    return value


def _pair(entry: Any) -> Any:
    name, separator, path = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    return f"{name.strip()}:{_path(path.strip())}" if separator and path.strip() else entry


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    return os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 - links are kept
