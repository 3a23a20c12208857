"""What lies beside graphs whose weights are not sharded, so that the artifact stands alone.

NxD Inference then shards while it loads, from the checkpoint, from ``quantized_checkpoints_path``
and from the draft's folder (``checkpoint_loader_fn`` of ``models/application_base.py``); the
worker leads it to the copies in the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.artifact.neuron_weights import DRAFT, QUANTIZED
from neuron_artifacts.backends.nxdi.inputs import MARKER
from neuron_artifacts.errors import RefusedError
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.model.snapshot import CONFIG_NAME, INDEX_NAME

_KEPT = (".json", ".safetensors")


def is_sharded(fields: Mapping[str, Any]) -> bool:
    """Whether the artifact has the weights of its ranks, which is all that loading reads."""
    return bool(fields.get("save_sharded_checkpoint")) and not fields.get("skip_sharding")


def find_companions(fields: Mapping[str, Any], draft: ModelSnapshot | None) -> dict[str, Path]:
    """Files by their names in the artifact, once the quantised checkpoint has been made.

    Raises
    ------
    RefusedError
        The quantised checkpoint is a pickle, which no artifact carries.
    """
    if is_sharded(fields):
        return {}
    found: dict[str, Path] = {}
    if fields.get("quantized"):
        found |= _quantized(Path(fields["quantized_checkpoints_path"]))
    if draft is not None:
        files = [file.path for file in draft.weight_files if file.path is not None]
        if draft.root is not None:
            files += [draft.root / CONFIG_NAME, draft.root / INDEX_NAME]
        found |= {f"{DRAFT}/{path.name}": path for path in files if path.is_file()}
    return found


def _quantized(path: Path) -> dict[str, Path]:
    files = sorted(path.iterdir()) if path.is_dir() else []
    kept = [file for file in files if file.suffix in _KEPT and file.name != MARKER]
    found = {f"{QUANTIZED}/{file.name}": file for file in kept}
    if not any(name.endswith(".safetensors") for name in found):
        raise RefusedError(
            f"{path} has no safetensors, and an artifact carries no pickle",
            hint="save_sharded_checkpoint: true, or quantise into a folder",
        )
    return found
