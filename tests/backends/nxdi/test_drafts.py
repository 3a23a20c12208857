"""What a loader sets on a draft beyond the target's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.drafts import draft_settings

EAGLE = {"enable_eagle_speculation": True}
NAMED = {"draft_overrides": {"tp_degree": 1}}
CASES: list[tuple[str | None, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (None, EAGLE, {}, {}),
    ("vllm-neuron-0.2", EAGLE, NAMED, {}),
    ("vllm-neuron-0.5", {}, {}, {"names_class": True, "neuron_config": {}}),
    ("vllm-neuron-0.5", {}, NAMED, {"names_class": True, "neuron_config": {"tp_degree": 1}}),
    ("aws-fork-2.24", {}, NAMED, {"neuron_config": {"trace_tokengen_model": True}}),
    ("vllm-main", EAGLE, {}, {
        "neuron_config": {"trace_tokengen_model": True, "sequence_parallel_enabled": False},
    }),
]  # fmt: skip


@pytest.mark.parametrize(("loader", "arguments", "override", "wanted"), CASES)
def test_each_loader_has_its_own(
    loader: str | None,
    arguments: dict[str, Any],
    override: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    assert draft_settings(loader, arguments, override) == wanted
