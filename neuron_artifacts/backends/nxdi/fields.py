"""The finished NeuronConfig of a request: computed here where its rules are known, else there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from neuron_artifacts._files import shorten
from neuron_artifacts.backends.nxdi.families import Family, family_for, is_image_to_text
from neuron_artifacts.backends.nxdi.kinds import wrong_kinds
from neuron_artifacts.backends.nxdi.levels import PYTHONS, SdkLevel, host_of
from neuron_artifacts.backends.nxdi.neuron_config import (
    fill_in_neuron_config,
    unknowable_arguments,
    unknown_arguments,
)
from neuron_artifacts.backends.nxdi.request import NeuronRequest
from neuron_artifacts.errors import (
    RefusedError,
    SpecError,
    ToolchainError,
    UnsupportedModelError,
)

_NOT_WITH_IMAGES = {
    "prefix caching": ("is_prefix_caching", "enable_prefix_caching"),
    "fused speculation": (
        "enable_fused_speculation", "enable_eagle_speculation", "speculative_model",
        "num_speculative_tokens", "speculative_method",
    ),
    "chunked prefill": ("chunked_prefill_config",),
    "Medusa": ("is_medusa",),
}  # fmt: skip
"""By which options each is asked for."""


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
    RefusedError
        The class would silently drop an argument, a value is of another kind than its field, the
        model cannot be combined with what was asked, or the real code says no.
    """
    _refuse_combinations(request, config)
    if level is None or request.multimodal:
        return _read_answer(ask())
    try:
        family = family_for(config, request.loader, level)
    except UnsupportedModelError:
        return _read_answer(ask())
    _refuse_unknown(request, family, level)
    for name, message in wrong_kinds(request.arguments, family, level):
        raise RefusedError(message, options=(name,))
    if unknowable_arguments(request.arguments):
        return _read_answer(ask())
    host = host_of(level, target, environ, python if python in PYTHONS else PYTHONS[1])
    try:
        return fill_in_neuron_config(request.arguments, family=family, level=level, host=host)
    except SpecError as error:
        raise RefusedError(error.message, hint=error.hint, options=error.options) from None


def _refuse_unknown(request: NeuronRequest, family: Family, level: SdkLevel) -> None:
    unknown = unknown_arguments(request.override, family, level)
    if unknown:
        shown = ", ".join(map(shorten, unknown))
        raise RefusedError(
            f"NeuronConfig of SDK {level.name} has no field {shown}",
            hint="NxD Inference would drop it with a warning; remove it or correct its name",
            options=tuple(unknown),
        )


def _refuse_combinations(request: NeuronRequest, config: Mapping[str, Any]) -> None:
    """What no image-to-text model has, of any release, which its class says while it is built.

    Source: ``models/image_to_text_model_base.py`` (``NeuronBaseForImageToText.__init__``).
    """
    if not is_image_to_text(config):
        return
    text = request.multimodal.get("text_neuron_config")
    asked = {**request.arguments, **(text if isinstance(text, Mapping) else {})}
    for what, options in _NOT_WITH_IMAGES.items():
        if any(asked.get(name) not in (None, False) for name in options):
            inside = isinstance(text, Mapping) and any(name in text for name in options)
            raise RefusedError(
                f"NxD Inference has no {what} for image-to-text models",
                hint=f"leave out {', '.join(options)}",
                options=(*options, "text_neuron_config") if inside else options,
            )


def _read_answer(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if refused := answer.get("refused"):
        raise RefusedError(f"NxD Inference refuses this: {refused}")
    try:
        fields = json.loads(answer["document"])["neuron_config"]
        if isinstance(fields, dict):
            return fields
    except (KeyError, TypeError, ValueError):
        pass
    raise ToolchainError("the worker gave no configuration", hint="neuron-artifacts doctor")
