"""The md5 under which vLLM's Neuron loaders look for a compiled artifact.

It is the digest of NxD Inference's whole configuration text, so it depends on the SDK level, the
loader's own defaults, the spelling of the model's path, and the platform. Everything here is
computed from tables and rules: neither NxD Inference, nor vLLM, nor torch is imported.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from neuron_artifacts.backends.nxdi.document import fused_speculation, inference_config, render
from neuron_artifacts.backends.nxdi.families import Family, draft_family, family_for
from neuron_artifacts.backends.nxdi.levels import Host, SdkLevel, host_of, level_of
from neuron_artifacts.backends.nxdi.loaders import (
    LOADERS,
    VllmArguments,
    draft_fields,
    effective_block_size,
    is_plugin,
    names_draft_class,
    neuron_arguments,
    resolve_dtype,
)
from neuron_artifacts.backends.nxdi.neuron_config import build_neuron_config, unknown_arguments
from neuron_artifacts.errors import SpecError, UnsupportedModelError

_REFUSED_ENVIRONMENT = {
    "ENABLE_NEURON_MULTI_NODE": (
        "aws-fork-", "each node of a multi-node deployment has a hash of its own",
    ),
    "DISABLE_NEURON_CUSTOM_SCHEDULER": (
        "vllm-neuron-", "vLLM's own scheduler decides on chunked prefill",
    ),
}  # fmt: skip
"""Variables of some loaders' processes, and why they are not followed."""


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
    transformers: str | None = None,
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
    transformers:
        The release on the serving host, where it is not the one the SDK level is pinned to.

    Raises
    ------
    SpecError
        A value is wrong, or the loader or NxD Inference would refuse it.
    UnsupportedModelError, ModelFormatError
        The model is not known at this level, or its configuration cannot be read.
    """
    environ = {} if environ is None else environ
    override = dict(override_neuron_config or {})
    _check_loader(loader, arguments, environ)
    level = level_of(sdk, transformers)
    host = replace(host_of(level, target, environ, python), hash_seed=_hash_seed(environ, python))
    site = _Site(family_for(config, loader, level), level, host)
    if loader is None or arguments is None:
        attributes = site.configure(config, model, site.fill_in(override), site.family)
        return _digest(attributes, site.notes(override))
    arguments = replace(arguments, dtype=resolve_dtype(loader, arguments.dtype, config, level))
    _check_chunked_prefill(loader, level, arguments, override)
    fields = site.fill_in(neuron_arguments(loader, arguments, override))
    attributes = site.configure(config, model, fields, site.family)
    if _attaches_draft(loader, arguments, fields):
        if draft_config is None or arguments.speculation is None:
            raise SpecError("speculation needs the draft model's config.json")
        draft = draft_fields(loader, attributes["neuron_config"], override)
        attributes["fused_spec_config"] = site.attach(
            loader, arguments.speculation.model, draft, draft_config
        )
    return _digest(attributes, (*_loader_notes(loader, arguments, override), *site.notes(override)))


@dataclass(frozen=True)
class _Site:
    """Where configurations are built: the classes, at an SDK level, on a host."""

    family: Family
    level: SdkLevel
    host: Host

    def fill_in(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return build_neuron_config(kwargs, family=self.family, level=self.level, host=self.host)

    def configure(
        self, config: Mapping[str, Any], name: str, fields: Mapping[str, Any], family: Family
    ) -> dict[str, Any]:
        return inference_config(config, name, fields, family=family, level=self.level)

    def attach(
        self, loader: str, model: str, fields: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The draft: with the target's classes whatever it is itself, or with its own."""
        own = None
        if names_draft_class(loader):
            if self.level.before("2.27"):
                raise SpecError(
                    f"{loader} cannot speculate with SDK {self.level.name}",
                    hint="it names the draft's class, which NxD Inference takes from SDK 2.27 on",
                )
            own = draft_family(config, self.family, self.level)
        draft = self.configure(config, model, fields, own or self.family)
        return fused_speculation(self.family, draft, model, level=self.level, draft_class=own)

    def notes(self, override: Mapping[str, Any]) -> tuple[str, ...]:
        notes = [
            f"NeuronConfig of SDK {self.level.name} has no field {name!r}: it is dropped there too"
            for name in unknown_arguments(override, self.family, self.level)
            if name != "draft_overrides"
        ]
        if self.family.is_moe and self.level.since("2.24"):
            python = self.host.python
            notes.append(f"computed for Python {python}: 3.10 and later versions differ here")
        if self.level.before("2.24"):
            notes.append(
                f"the text has the host's transformers in it: computed for "
                f"{self.level.transformers}"
            )
        return tuple(notes)


def _hash_seed(environ: Mapping[str, str], python: str) -> str | None:
    """The host's, where it is fixed and this interpreter hashes text as the host's does."""
    seed = environ.get("PYTHONHASHSEED")
    # From 3.11 on CPython hashes with SipHash-1-3 rather than SipHash-2-4.
    same = (sys.version_info >= (3, 11)) == (python != "3.10")
    return seed if seed not in (None, "", "random") and same else None


def _check_loader(
    loader: str | None, arguments: VllmArguments | None, environ: Mapping[str, str]
) -> None:
    names = ", ".join(LOADERS)
    if loader is None:
        if arguments is not None:
            raise SpecError("vLLM's options need a loader", hint=f"one of {names}")
        return
    if loader not in LOADERS:
        raise SpecError(f"unknown loader {loader!r}", hint=f"one of {names}")
    if arguments is None:
        raise SpecError(f"{loader} needs vLLM's options")
    for name, (who, reason) in _REFUSED_ENVIRONMENT.items():
        if loader.startswith(who) and environ.get(name, "").lower() not in ("", "0", "false"):
            raise UnsupportedModelError(
                f"{name}={environ[name]}: {reason}, and that is not computed here",
                hint=f"unset {name}",
            )


def _check_chunked_prefill(
    loader: str, level: SdkLevel, arguments: VllmArguments, override: Mapping[str, Any]
) -> None:
    newer = loader == "aws-fork-2.24" or is_plugin(loader)
    makes = override.get("chunked_prefill_config") or (
        loader == "aws-fork-2.24" and arguments.chunked_prefill is not None
    )
    if makes and newer and level.before("2.24"):
        raise SpecError(
            f"SDK {level.name} has no chunked prefill configuration for {loader} to make"
        )


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


def _loader_notes(
    loader: str, arguments: VllmArguments, override: Mapping[str, Any]
) -> tuple[str, ...]:
    notes = []
    asked = arguments.block_size
    if asked is not None and asked != effective_block_size(loader, arguments, override):
        notes.append(f"block size {asked} is not used: without prefix caching it is max_model_len")
    if arguments.chunked_prefill is not None and loader != "aws-fork-2.24":
        notes.append(f"{loader} does not chunk prompts")
    if arguments.lora is None and "lora_modules" in override:
        notes.append("lora_modules counts only with --enable-lora")
    if _ignores_eagle(loader, arguments, override):
        notes.append(
            f"{loader} takes EAGLE from override_neuron_config.enable_eagle_speculation, "
            "not from the speculative method"
        )
    return tuple(notes)


def _ignores_eagle(loader: str, arguments: VllmArguments, override: Mapping[str, Any]) -> bool:
    speculation = arguments.speculation
    asks = speculation is not None and speculation.method == "eagle"
    return asks and not is_plugin(loader) and not override.get("enable_eagle_speculation")
