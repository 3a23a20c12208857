"""Which artifacts the bundled loader drives; ``session.py`` looks again, where they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.errors import IncompatibleError

_ONLY_VLLM = {
    "enable_fused_speculation": "speculation with a draft",
    "speculation_length": "speculation",
    "is_medusa": "Medusa heads",
    "is_block_kv_layout": "a cache in blocks (prefix caching)",
    "async_mode": "async_mode",
    "lora_config": "LoRA adapters",
}
"""Fields of graphs whose steps take more than tokens and slots."""


def refuse_unservable(directory: Path, manifest: Manifest) -> None:
    """Say so before an interpreter is looked for and weights are loaded.

    Raises
    ------
    IncompatibleError
        Only vLLM drives these graphs.
    """
    fields = manifest.document["graphs"].get("neuron_config")
    if not isinstance(fields, Mapping):
        return  # adopted; what it is stands in the library's own file
    for name, what in _ONLY_VLLM.items():
        if fields.get(name):
            raise IncompatibleError(
                f"{directory} was compiled for {what}, which the bundled loader does not drive",
                hint=f"neuron-artifacts serve --engine vllm --artifacts {directory}",
            )
