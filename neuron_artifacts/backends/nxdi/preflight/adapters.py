"""LoRA adapters: what would only come to light when the model is loaded.

Sources in neuronx-distributed-inference: ``modules/lora_serving/config.py``,
``lora_checkpoint.py`` (which files are read) and ``lora_model.py`` (which modules are wrapped).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.lora import Adapter, read_adapters
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject

_PICKLES = (".bin", ".pt")


def check_adapters(subject: Subject) -> Iterator[Finding]:
    """Every adapter, and what they ask for together. Missing ones: see the constructor's rules."""
    config = subject.field("lora_config")
    if not isinstance(config, Mapping):
        return
    adapters = read_adapters(config)
    asked = subject.asked.get("lora_config")
    for adapter in adapters:
        yield from _check_files(adapter)
        yield from _check_base(adapter, subject)
        if isinstance(asked, Mapping):
            yield from _check_against(adapter, asked)
    if isinstance(asked, Mapping):
        yield from _check_count(config, asked)
    yield from _check_modules(subject, config)


def _check_files(adapter: Adapter) -> Iterator[Finding]:
    files = sorted(file.name for file in adapter.path.iterdir() if file.is_file())
    if any(name.endswith(".safetensors") for name in files):
        return
    pickles = [name for name in files if name.endswith(_PICKLES)]
    if not pickles:
        yield finding(
            "lora-adapter-weights", f"LoRA adapter {adapter.path} has no weights",
            hint="adapter_model.safetensors beside adapter_config.json",
        )  # fmt: skip
    else:
        yield finding(
            "lora-adapter-pickle",
            f"LoRA adapter {adapter.path} has its weights as {pickles[0]}, a pickle: loading it "
            "runs what is in it",
            hint="save the adapter with safe_serialization=True",
        )


def _check_base(adapter: Adapter, subject: Subject) -> Iterator[Finding]:
    base = adapter.config.get("base_model_name_or_path")
    names = {subject.model.name, subject.model.source, subject.model.config.get("_name_or_path")}
    tails = {str(name).rstrip("/").rsplit("/", 1)[-1] for name in names if name}
    if isinstance(base, str) and base and base.rstrip("/").rsplit("/", 1)[-1] not in tails:
        yield finding(
            "lora-base-model",
            f"LoRA adapter {adapter.name!r} was made for {base}, and the model is "
            f"{subject.model.name}",
        )


def _check_against(adapter: Adapter, asked: Mapping[str, Any]) -> Iterator[Finding]:
    most = asked.get("max_lora_rank", 16)
    if isinstance(most, int) and adapter.rank > most:
        yield finding(
            "lora-rank",
            f"LoRA adapter {adapter.name!r} has rank {adapter.rank}, above max_lora_rank {most}: "
            "every adapter gets the room of the largest",
            hint=f"max_lora_rank: {adapter.rank}",
        )
    modules = asked.get("target_modules")
    if isinstance(modules, list) and (missing := sorted(set(adapter.target_modules) - {*modules})):
        yield finding(
            "lora-modules",
            f"LoRA adapter {adapter.name!r} has {', '.join(missing)}, which target_modules lacks: "
            "it is replaced by the adapters' own modules",
        )


def _check_count(config: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[Finding]:
    count, most = len(config.get("lora_ckpt_paths") or {}), asked.get("max_loras", 1)
    if isinstance(most, int) and count > most:
        yield finding(
            "lora-max-loras", f"{count} adapters are more than max_loras {most}, which is raised",
            hint=f"max_loras: {count}",
        )  # fmt: skip


def _check_modules(subject: Subject, config: Mapping[str, Any]) -> Iterator[Finding]:
    modules = config.get("target_modules")
    if not modules:
        yield finding(
            "lora-none", "lora_config names neither an adapter nor target_modules",
            hint="lora_ckpt_paths: {name: folder}",
        )  # fmt: skip
        return
    if not isinstance(modules, list) or not subject.model.tensors:
        return
    have = {name.rsplit(".", 2)[-2] for name in subject.model.all_tensors if name.count(".") > 1}
    have |= {name.rsplit(".", 1)[0] for name in subject.model.all_tensors}
    if not any(str(module).rsplit(".", 1)[-1] in have for module in modules):
        yield finding(
            "lora-modules-absent",
            f"the model has none of target_modules {', '.join(map(str, modules))}",
        )
