"""Paths that a worker gets are absolute: it runs in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.paths import with_absolute_paths

CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"quantized_checkpoints_path": "q"}, {"quantized_checkpoints_path": "HERE/q"}),
    ({"quantized_checkpoints_path": "/q/../r"}, {"quantized_checkpoints_path": "/r"}),
    ({"quantized_checkpoints_path": "~/q"}, {"quantized_checkpoints_path": "HOME/q"}),
    (
        {"lora_config": {"lora_ckpt_paths": {"a": "x", "b": "/y"}, "max_loras": 2}},
        {"lora_config": {"lora_ckpt_paths": {"a": "HERE/x", "b": "/y"}, "max_loras": 2}},
    ),
    (
        {"lora_config": {"lora_ckpt_paths_cpu": ["a: x", "b:/y", "odd"], "lora_ckpt_json": "j"}},
        {"lora_config": {
            "lora_ckpt_paths_cpu": ["a:HERE/x", "b:/y", "odd"], "lora_ckpt_json": "HERE/j",
        }},
    ),
    (
        {"lora_modules": [{"name": "a", "path": "x"}, {"name": "b"}]},
        {"lora_modules": [{"name": "a", "path": "HERE/x"}, {"name": "b"}]},
    ),
    (
        {"text_neuron_config": {"quantized_checkpoints_path": "q", "tp_degree": 2}},
        {"text_neuron_config": {"quantized_checkpoints_path": "HERE/q", "tp_degree": 2}},
    ),
    (
        {"quantized_checkpoints_path": None, "lora_config": {"lora_ckpt_paths": 7}, "x": "y"},
        {"quantized_checkpoints_path": None, "lora_config": {"lora_ckpt_paths": 7}, "x": "y"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), CASES)
def test_every_path_and_nothing_else(
    given: dict[str, Any],
    wanted: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/someone")

    def name(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: name(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [name(entry) for entry in value]
        if isinstance(value, str):
            return value.replace("HERE", str(tmp_path)).replace("HOME", "/home/of/someone")
        return value

    assert with_absolute_paths(given) == name(wanted)
