"""The md5 under which vLLM's Neuron loaders look for a compiled artifact.

It is the digest of NxD Inference's whole configuration text, so it depends on the SDK level, the
loader's own defaults, the spelling of the model's path, and the platform. Everything here is
computed from tables and rules: neither NxD Inference, nor vLLM, nor torch is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from neuron_artifacts.backends.nxdi.document import fused_speculation, inference_config, render
from neuron_artifacts.backends.nxdi.families import Family, family_for
from neuron_artifacts.backends.nxdi.levels import Host, SdkLevel, host_of, level_of
from neuron_artifacts.backends.nxdi.loaders import (
    LOADERS,
    VllmArguments,
    draft_fields,
    effective_block_size,
    is_plugin,
    neuron_arguments,
    resolve_dtype,
)
from neuron_artifacts.backends.nxdi.neuron_config import build_neuron_config
from neuron_artifacts.errors import SpecError, UnsupportedModelError

_REFUSED_ENVIRONMENT = {
    "ENABLE_NEURON_MULTI_NODE": "each node of a multi-node deployment has a hash of its own",
    "DISABLE_NEURON_CUSTOM_SCHEDULER": "vLLM's own scheduler decides on chunked prefill",
}


@dataclass(frozen=True)
class VllmHash:
    """The digest, the exact text it is of, and what the reader should know about it."""

    md5: str
    document: str
    notes: tuple[str, ...] = ()


def vllm_artifact_hash(
    config: Mapping[str, Any],
    *,
    model: str,
    sdk: str,
    loader: str | None = None,
    target: str = "trn1",
    arguments: VllmArguments | None = None,
    override_neuron_config: Mapping[str, Any] | None = None,
    draft_config: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    python: str = "3.11",
) -> VllmHash:
    """What vLLM's loader would call the artifact directory of this model and configuration.

    Parameters
    ----------
    config:
        The model's parsed ``config.json``.
    model:
        The model as it is given to vLLM, letter by letter: it is part of the hashed text.
    sdk, loader:
        An SDK level (``2.24``) and one of :data:`~.loaders.LOADERS`. With no loader,
        ``override_neuron_config`` holds NeuronConfig's own arguments and nothing is added.
    target:
        ``inf2``, ``trn1``, ``trn1n``, ``trn2`` or ``trn3``; ``NEURON_PLATFORM_TARGET_OVERRIDE``
        in ``environ`` wins over it.
    arguments:
        vLLM's options; needed with a loader, and only then. A ``dtype`` of ``auto`` is resolved
        as vLLM does.
    draft_config:
        The draft's ``config.json``, with speculation.
    environ:
        The environment the loader would run in.
    python:
        The minor version of Python on the serving host.

    Raises
    ------
    SpecError
        A value is wrong, or the loader or NxD Inference would refuse it.
    UnsupportedModelError, ModelFormatError
        The model is not known at this level, or its configuration cannot be read.
    """
    environ = {} if environ is None else environ
    level = level_of(sdk)
    host = host_of(level, target, environ, python)
    family = family_for(config, loader, level)
    override = dict(override_neuron_config or {})
    if loader is None:
        if arguments is not None:
            raise SpecError("vLLM's options need a loader", hint=f"one of {', '.join(LOADERS)}")
        fields = build_neuron_config(override, family=family, level=level, host=host)
        attributes = inference_config(config, model, fields, family=family, level=level)
        return _digest(attributes, _host_notes(level, host, family))
    if loader not in LOADERS:
        raise SpecError(f"unknown loader {loader!r}", hint=f"one of {', '.join(LOADERS)}")
    if arguments is None:
        raise SpecError(f"{loader} needs vLLM's options")
    _check_environment(environ)
    arguments = replace(arguments, dtype=resolve_dtype(loader, arguments.dtype, config))
    kwargs = neuron_arguments(loader, arguments, override)
    fields = build_neuron_config(kwargs, family=family, level=level, host=host)

    def build(source: Mapping[str, Any], name: str, neuron: Mapping[str, Any]) -> dict[str, Any]:
        return inference_config(source, name, neuron, family=family, level=level)

    attributes = build(config, model, fields)
    if _attaches_draft(loader, arguments, fields):
        draft = _draft(loader, arguments, attributes["neuron_config"], draft_config, build)
        path = arguments.speculation.model if arguments.speculation else ""
        attributes["fused_spec_config"] = fused_speculation(
            family, draft, path, level=level, host=host
        )
    notes = _loader_notes(loader, arguments, override)
    return _digest(attributes, (*notes, *_host_notes(level, host, family)))


def _digest(attributes: Mapping[str, Any], notes: tuple[str, ...]) -> VllmHash:
    document = render(attributes)
    md5 = hashlib.md5(document.encode("utf-8"), usedforsecurity=False)
    return VllmHash(md5.hexdigest(), document, notes)


def _attaches_draft(loader: str, arguments: VllmArguments, fields: Mapping[str, Any]) -> bool:
    """The plugin looks at the finished configuration, the forks at vLLM's options."""
    if not is_plugin(loader):
        return arguments.speculation is not None
    if fields["enable_fused_speculation"] and arguments.speculation is None:
        raise SpecError("the loader refuses fused speculation without a speculative model")
    return bool(fields["enable_fused_speculation"])


def _draft(
    loader: str, arguments: VllmArguments, target: Mapping[str, Any],
    draft_config: Mapping[str, Any] | None,
    build: Callable[[Mapping[str, Any], str, Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    if draft_config is None or arguments.speculation is None:
        raise SpecError("speculation needs the draft model's config.json")
    return build(draft_config, arguments.speculation.model, draft_fields(loader, target))


def _check_environment(environ: Mapping[str, str]) -> None:
    for name, reason in _REFUSED_ENVIRONMENT.items():
        if environ.get(name, "").lower() not in ("", "0", "false"):
            raise UnsupportedModelError(
                f"{name}={environ[name]}: {reason}, and that is not computed here",
                hint=f"unset {name}",
            )


def _loader_notes(
    loader: str, arguments: VllmArguments, override: Mapping[str, Any]
) -> tuple[str, ...]:
    notes = []
    asked = arguments.block_size
    if asked is not None and asked != effective_block_size(loader, arguments, override):
        notes.append(f"block size {asked} is not used: without prefix caching it is max_model_len")
    speculation = arguments.speculation
    if speculation is not None and not is_plugin(loader):
        if speculation.method == "eagle" and not override.get("enable_eagle_speculation"):
            notes.append(
                f"{loader} takes EAGLE from override_neuron_config.enable_eagle_speculation, "
                "not from the speculative method"
            )
    return tuple(notes)


def _host_notes(level: SdkLevel, host: Host, family: Family) -> tuple[str, ...]:
    if family.is_moe and level.since("2.24"):
        return (f"computed for Python {host.python}: 3.10 gives another hash for this model",)
    return ()
