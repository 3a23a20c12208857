"""The finished NeuronConfig of a request: computed here where its rules are known, else there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts._files import DigestCache, shorten
from neuron_artifacts.backends.nxdi.families import family_for
from neuron_artifacts.backends.nxdi.levels import PYTHONS, SdkLevel, host_of
from neuron_artifacts.backends.nxdi.neuron_config import fill_in_neuron_config, unknown_arguments
from neuron_artifacts.backends.nxdi.request import NeuronRequest
from neuron_artifacts.errors import SpecError, ToolchainError, UnsupportedModelError


def resolve_fields(
    request: NeuronRequest,
    config: Mapping[str, Any],
    level: SdkLevel | None,
    *,
    target: str,
    environ: Mapping[str, str],
    python: str,
    ask: Callable[[], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Every field of NeuronConfig, whether or not the class would take them: preflight judges.

    ``ask`` runs the real code, which takes seconds.

    Raises
    ------
    SpecError
        The class would silently drop an argument, or a value cannot be computed with.
    """
    if level is None or request.multimodal:
        return _read_answer(ask())
    try:
        family = family_for(config, request.loader, level)
    except UnsupportedModelError:
        return _read_answer(ask())
    unknown = unknown_arguments(request.override, family, level)
    if unknown:
        shown = ", ".join(map(shorten, unknown))
        raise SpecError(
            f"NeuronConfig of SDK {level.name} has no field {shown}",
            hint="NxD Inference would drop it with a warning; remove it or correct its name",
            options=tuple(unknown),
        )
    host = host_of(level, target, environ, python if python in PYTHONS else PYTHONS[1])
    return fill_in_neuron_config(request.arguments, family=family, level=level, host=host)


def _read_answer(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        fields = json.loads(answer["document"])["neuron_config"]
        if isinstance(fields, dict):
            return fields
    except (KeyError, TypeError, ValueError):
        pass
    raise ToolchainError("the worker gave no configuration", hint="neuron-artifacts doctor")


def adapter_digests(fields: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """SHA-256 of every file of every LoRA adapter that the configuration names."""
    config = fields.get("lora_config")
    if not isinstance(config, Mapping):
        return {}
    paths = {**(config.get("lora_ckpt_paths") or {}), **(config.get("lora_ckpt_paths_cpu") or {})}
    digests = DigestCache()
    found = {}
    for name, path in sorted(paths.items()):
        folder = Path(path)
        # One that is missing is preflight's to name, beside whatever else is wrong.
        files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
        found[name] = {file.name: digests.digest(file) for file in files}
    return found
