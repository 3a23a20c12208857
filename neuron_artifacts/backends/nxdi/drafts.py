"""What a loader of vLLM sets on a draft, as the worker is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuron_artifacts.backends.nxdi.loaders import is_plugin, names_draft_class


def draft_settings(
    loader: str | None, arguments: Mapping[str, Any], override: Mapping[str, Any]
) -> dict[str, Any]:
    """The entries ``names_class`` and ``neuron_config`` of a worker's ``draft``.

    ``arguments`` are those of the target's NeuronConfig.
    """
    if loader is None:
        return {}
    if names_draft_class(loader):
        return {"names_class": True, "neuron_config": dict(override.get("draft_overrides") or {})}
    if is_plugin(loader):
        return {}
    # The forks set these on the draft, whatever the release has of them.
    fields: dict[str, Any] = {"trace_tokengen_model": True}
    if arguments.get("enable_eagle_speculation"):
        fields["sequence_parallel_enabled"] = False
    return {"neuron_config": fields}
