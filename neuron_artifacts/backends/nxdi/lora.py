"""LoraServingConfig as data: it looks into each adapter's folder while it is built.

Source: ``modules/lora_serving/config.py`` of neuronx-distributed-inference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import load_json_object, read_regular
from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.backends.nxdi.neuron_rules import BrokenRule
from neuron_artifacts.errors import SpecError

ADAPTER_CONFIG = "adapter_config.json"
_MOST_BYTES = 1 << 20

_BASE: dict[str, Any] = {
    "max_loras": 1,
    "max_lora_rank": 16,
    "target_modules": None,
    "lora_bias": "none",
    "lora_ckpt_paths": None,
}


@dataclass(frozen=True)
class Adapter:
    """What an adapter's configuration says of it."""

    name: str
    path: Path
    rank: int
    target_modules: tuple[str, ...]
    config: Mapping[str, Any]


def lora_serving(given: Any, level: SdkLevel, *, hash_seed: str | None = None) -> Any:
    """LoraServingConfig for the entries of ``given``; anything but an object stays as it is.

    An adapter that cannot be read counts as none: :func:`broken_adapters` says what is wrong.
    ``hash_seed`` is the serving host's ``PYTHONHASHSEED``, if that is fixed.

    Raises
    ------
    SpecError
        The file that names the adapters cannot be read.
    """
    if not isinstance(given, dict):
        return given
    table = lora_defaults(level)
    fields = {**table, **{name: deepcopy(v) for name, v in given.items() if name in table}}
    if level.before("2.22"):
        return fields
    if level.since("2.29") and fields["enable_base_model_only"]:
        fields["max_loras"] += 1
        fields["max_cpu_loras"] += 1
    on_device, on_host = _places(fields, level)
    fields["lora_ckpt_paths"] = on_device
    if level.since("2.27"):
        fields["lora_ckpt_paths_cpu"] = on_host
        fields["max_loras"] = max(fields["max_loras"], len(on_device) + _spare(fields))
    adapters = [found for found in _read(on_device, on_host) if isinstance(found, Adapter)]
    wanted = {module for adapter in adapters for module in adapter.target_modules}
    if not _covers(fields["target_modules"], wanted):
        lists = [adapter.target_modules for adapter in adapters]
        if hash_seed is None or len(wanted) < 2:
            fields["target_modules"] = sorted(wanted)
        else:
            fields["target_modules"] = _as_a_set(lists, hash_seed)
    fields["max_lora_rank"] = max([fields["max_lora_rank"], *(a.rank for a in adapters)])
    return fields


def broken_adapters(
    given: Any, level: SdkLevel, *, hash_seed: str | None = None
) -> tuple[BrokenRule, ...]:
    """Every reason why the class would raise, or why its text is not the same each time."""
    if not isinstance(given, dict):
        return ()
    table = lora_defaults(level)
    broken = [
        BrokenRule("lora-entry", f"lora_config has no entry {name!r} in SDK {level.name}")
        for name in sorted(set(given) - set(table))
    ]
    if level.before("2.22"):
        return tuple(broken)
    fields = {**table, **given}
    for name in ("lora_ckpt_paths", "lora_ckpt_paths_cpu"):
        broken += [entry for entry in _pairs(fields.get(name)) if isinstance(entry, BrokenRule)]
    on_device, on_host = _places(fields, level)
    if len(on_host) > fields.get("max_cpu_loras", 0):
        broken.append(BrokenRule(
            "lora-max-cpu", f"{len(on_host)} adapters are more than max_cpu_loras allows",
            hint=f"raise max_cpu_loras to {len(on_host)}",
        ))  # fmt: skip
    found = _read(on_device, on_host)
    broken += [entry for entry in found if isinstance(entry, BrokenRule)]
    wanted = {m for entry in found if isinstance(entry, Adapter) for m in entry.target_modules}
    is_free = hash_seed is None and len(wanted) > 1
    if is_free and not _covers(fields["target_modules"], wanted):
        # It collects the adapters' modules in a Python set.
        broken.append(BrokenRule(
            "lora-modules-order",
            "the order of lora_config.target_modules depends on Python's hash seed there",
            hint="list every adapter's modules in target_modules: " + ", ".join(sorted(wanted))
            + "; or fix PYTHONHASHSEED",
        ))  # fmt: skip
    return tuple(broken)


def read_adapters(fields: Mapping[str, Any]) -> tuple[Adapter, ...]:
    """The adapters that a finished ``lora_config`` names, as far as they can be read."""
    on_device, on_host = fields.get("lora_ckpt_paths"), fields.get("lora_ckpt_paths_cpu")
    found = _read(adapter_paths(on_device), adapter_paths(on_host))
    return tuple(entry for entry in found if isinstance(entry, Adapter))


_SET_PROGRAM = """
import json, sys
found = set()
for names in json.load(sys.stdin):
    found.update(names)
json.dump(list(found), sys.stdout)
"""


def _as_a_set(lists: Sequence[Sequence[str]], hash_seed: str) -> list[str]:
    """The order of a set, which only a Python started with this hash seed can tell.

    Raises
    ------
    SpecError
        It is no seed.
    """
    asked = subprocess.run(
        [sys.executable, "-S", "-c", _SET_PROGRAM], input=json.dumps(lists), check=False,
        capture_output=True, text=True, env={"PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    if asked.returncode:
        raise SpecError(f"PYTHONHASHSEED={hash_seed} is no seed", hint="a whole number")
    ordered: list[str] = json.loads(asked.stdout)
    return ordered


def _spare(fields: Mapping[str, Any]) -> int:
    return int(fields.get("enable_base_model_only", False))


def _covers(modules: Any, wanted: set[str]) -> bool:
    return modules is not None and wanted <= set(modules)


def _places(fields: Mapping[str, Any], level: SdkLevel) -> tuple[dict[str, str], dict[str, str]]:
    """Adapters of the device and of the host by id. The host's include the device's."""
    on_device = adapter_paths(fields["lora_ckpt_paths"])
    if level.before("2.27"):
        return on_device, {}
    on_device = {**_listed(fields["lora_ckpt_json"], "lora-ckpt-paths"), **on_device}
    if not fields["dynamic_multi_lora"]:
        return on_device, {}
    on_host = _listed(fields["lora_ckpt_json"], "lora-ckpt-paths-cpu")
    return on_device, {**on_host, **adapter_paths(fields["lora_ckpt_paths_cpu"]), **on_device}


def _listed(file: Any, name: str) -> dict[str, str]:
    """The adapters that a file of their own names, relative to the folder it names."""
    if file is None:
        return {}
    try:
        content = load_json_object(read_regular(Path(file).expanduser(), _MOST_BYTES))
        folder, paths = content.get("lora-ckpt-dir", str(Path.cwd())), content[name]
        # The text is hashed, so nothing is normalised.
        joined = {name: os.path.join(folder, path) for name, path in paths.items()}  # noqa: PTH118
        return adapter_paths(joined)
    except KeyError:
        raise SpecError(f"lora_ckpt_json {file} has no {name}") from None
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"lora_ckpt_json {file} cannot be read: {error}") from None


def lora_defaults(level: SdkLevel) -> dict[str, Any]:
    """Every entry of LoraServingConfig with its plain default."""
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


def adapter_paths(given: Any) -> dict[str, str]:
    """Adapters by name, from an object or a list of ``id:path``; what is neither is left out."""
    pairs = [entry for entry in _pairs(given) if not isinstance(entry, BrokenRule)]
    return {
        name: str(Path(path).expanduser()) if path.startswith("~") else path for name, path in pairs
    }


def _pairs(given: Any) -> list[tuple[str, str] | BrokenRule]:
    """Adapters as id and path, from an object or from a list of ``id:path``."""
    if given is None:
        return []
    if isinstance(given, dict):
        return list(given.items())
    pairs: list[tuple[str, str] | BrokenRule] = []
    seen: set[str] = set()
    for entry in given:
        name, separator, path = entry.partition(":")
        name = name.strip()
        if not separator:
            message = f"LoRA adapter {entry!r} is not of the form id:path"
            pairs.append(BrokenRule("lora-adapter-form", message))
        elif name in seen:
            message = f"two LoRA adapters are called {name!r}"
            pairs.append(BrokenRule("lora-adapter-twice", message))
        else:
            pairs.append((name, path.split(":")[0].strip()))
        seen.add(name)
    return pairs


def _read(*places: Mapping[str, str]) -> list[Adapter | BrokenRule]:
    pairs = {pair: None for place in places for pair in place.items()}
    return [_read_adapter(name, path) for name, path in pairs]


def _read_adapter(name: str, path: str) -> Adapter | BrokenRule:
    folder = Path(path)
    if not folder.is_dir():
        return BrokenRule("lora-adapter-missing", f"LoRA adapter {name!r}: {path} is not a folder")
    try:
        config = load_json_object(read_regular(folder / ADAPTER_CONFIG, _MOST_BYTES))
    except (OSError, ValueError):
        message = f"LoRA adapter {path} has no readable {ADAPTER_CONFIG}"
        return BrokenRule("lora-adapter-config", message)
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not all(isinstance(entry, str) for entry in modules):
        return BrokenRule("lora-adapter-config", f"LoRA adapter {path} names no target_modules")
    rank = config.get("r", config.get("lora_rank"))
    if not isinstance(rank, int):
        return BrokenRule("lora-adapter-config", f"LoRA adapter {path} names no rank")
    return Adapter(name, folder, rank, tuple(modules), config)
