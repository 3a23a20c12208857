"""Whose work a configuration is: the generation of vLLM that asks NxD Inference for just this.

The directory's md5 is that of the configuration's text, so a loader that arrives at the same
configuration looks for the same directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.backends.nxdi.families import Family, family_for
from neuron_artifacts.backends.nxdi.levels import PYTHONS, Host, SdkLevel
from neuron_artifacts.backends.nxdi.loaders import (
    LOADERS,
    Speculation,
    VllmArguments,
    is_plugin,
    neuron_arguments,
)
from neuron_artifacts.backends.nxdi.neuron_config import build_neuron_config
from neuron_artifacts.backends.nxdi.request import loader_of_level
from neuron_artifacts.errors import NeuronArtifactsError

_ARGUMENTS = frozenset({
    "tp_degree", "batch_size", "seq_len", "torch_dtype", "speculation_length",
    "enable_fused_speculation",
})  # fmt: skip
"""Fields that vLLM has options for, so that they are no overrides."""

_FIRST_PLUGIN = "2.26"
"""vllm-neuron came with this SDK (aws-neuron-sdk, ``n2-manifest.json``)."""
_LAYOUT = ("is_block_kv_layout", "is_prefix_caching")
_TARGETS = ("trn1", "trn2", "trn3")


@dataclass(frozen=True)
class Recognised:
    """A loader, the least that must be laid over its defaults, and options of vLLM's own."""

    loader: str
    override: Mapping[str, Any]
    options: Mapping[str, Any]


def recognise_loader(
    content: Mapping[str, Any], level: SdkLevel, target: str | None = None
) -> Recognised | None:
    """The loader that asks for the configuration ``content`` with the fewest overrides.

    Of several that ask alike it is the one that came with the SDK level; if that is none of them,
    nobody can tell, and the answer is None. So it is where no loader arrives at it.

    Parameters
    ----------
    content:
        A parsed ``neuron_config.json``.
    target:
        What it was compiled for, if that is known.
    """
    there = (name for name in LOADERS if level.since(_FIRST_PLUGIN) or not is_plugin(name))
    found = [each for loader in there if (each := _explain(content, loader, level, target))]
    least = min((len(each.override) for each in found), default=0)
    nearest = {each.loader: each for each in found if len(each.override) == least}
    if len(nearest) == 1:
        return next(iter(nearest.values()))
    return nearest.get(loader_of_level(level.name))


def speculation_of(content: Mapping[str, Any]) -> Speculation | None:
    """The draft model as vLLM was told of it."""
    fused, fields = content.get("fused_spec_config"), content["neuron_config"]
    path = fused.get("draft_model_path") if isinstance(fused, Mapping) else None
    tokens = fields.get("speculation_length")
    if not isinstance(path, str) or not isinstance(tokens, int) or tokens < 1:
        return None
    return Speculation(path, tokens, "eagle" if fields.get("enable_eagle_speculation") else None)


def _explain(
    content: Mapping[str, Any], loader: str, level: SdkLevel, target: str | None
) -> Recognised | None:
    """The overrides with which ``loader`` arrives at the configuration, if it ever does."""
    try:
        family = family_for(content, loader, level)
        found = [
            Recognised(loader, override, _options(arguments))
            for arguments in _arguments(content, loader)
            for host in _hosts(target, level, family)
            for attempt in [
                _Attempt(content["neuron_config"], loader, level, family, host, arguments)
            ]
            if (override := attempt.fewest_overrides()) is not None
        ]
    except (NeuronArtifactsError, KeyError, TypeError, ValueError):
        return None  # of no class, or for no vLLM, that is known here
    return min(found, key=lambda each: len(each.override), default=None)


def _arguments(content: Mapping[str, Any], loader: str) -> Iterator[VllmArguments]:
    fields = content["neuron_config"]
    is_block_layout = fields.get("is_block_kv_layout")
    # The plugin has one more than it is told: vLLM keeps one for itself.
    may_be_told = is_block_layout and is_plugin(loader)
    for told in (None, fields["pa_num_blocks"] - 1) if may_be_told else (None,):
        yield VllmArguments(
            tensor_parallel_size=fields["tp_degree"],
            max_num_seqs=fields["batch_size"],
            max_model_len=fields["seq_len"],
            dtype=fields["torch_dtype"],
            block_size=fields.get("pa_block_size") if is_block_layout else None,
            enable_prefix_caching=bool(fields.get("is_prefix_caching")),
            num_gpu_blocks_override=told,
            speculation=speculation_of(content),
        )


def _options(arguments: VllmArguments) -> dict[str, Any]:
    named = {name: getattr(arguments, name) for name in ("block_size", "num_gpu_blocks_override")}
    return {name: value for name, value in named.items() if value is not None}


def _hosts(target: str | None, level: SdkLevel, family: Family) -> Iterator[Host]:
    pythons = (PYTHONS[:2] if level.since("2.24") else PYTHONS[:1]) if family.is_moe else ("3.11",)
    for name in _TARGETS if target not in _TARGETS else (target,):
        for python in pythons:
            yield Host(name, None, python)


@dataclass(frozen=True)
class _Attempt:
    """One loader with one set of options on one host, to be compared with ``wanted``."""

    wanted: Mapping[str, Any]
    loader: str
    level: SdkLevel
    family: Family
    host: Host
    arguments: VllmArguments

    def fewest_overrides(self) -> dict[str, Any] | None:
        layout = {name: True for name in _LAYOUT if self.wanted.get(name)}
        # Some loaders want the layout of the cache spelled out beside vLLM's own option.
        plain = self._build({}) or self._build(layout) or {}
        override = {
            name: value
            for name, value in self.wanted.items()
            if name not in _ARGUMENTS and (name in layout or _text(plain.get(name)) != _text(value))
        }
        if not self._gives(override):
            return None
        for name in list(override):  # what follows from other fields need not be said
            rest = {key: value for key, value in override.items() if key != name}
            if self._gives(rest):
                override = rest
        return override

    def _gives(self, override: Mapping[str, Any]) -> bool:
        built = self._build(override)
        return built is not None and _text(built) == _text(self.wanted)

    def _build(self, override: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            kwargs = neuron_arguments(self.loader, self.arguments, override)
            return build_neuron_config(kwargs, family=self.family, level=self.level, host=self.host)
        except NeuronArtifactsError:
            return None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
