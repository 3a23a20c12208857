"""Entries of vllm-neuron's compile cache, as it leaves them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def key_of(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def put_entry(folder: Path, text: str, **metadata: Any) -> Path:
    """One complete graph; ``metadata`` replaces fields of its metadata file."""
    key = key_of(text)
    path = folder / key
    path.mkdir(parents=True)
    neff = b"neff of " + text.encode()
    (path / "graph.hlo").write_bytes(b"hlo of " + text.encode())
    (path / f"graph_{key}.neff").write_bytes(neff)
    (path / "command.txt").write_text("neuronx-cc compile graph.hlo --framework XLA --target trn2")
    (path / "log-neuron-cc.txt").write_text("Compiler status PASS\n")
    described = {
        "version": 0, "created_timestamp": "2026-07-22T10:00:00+00:00", "cache_key": key,
        "output_count": 1, "unused_input_indices": [2], "has_rng_seed_parameter": False,
        "io_map": {"0": 1}, **metadata,
    }  # fmt: skip
    (path / ".artifact_metadata_v0.json").write_text(json.dumps(described))
    (path / ".compilation_complete").write_text(
        f"completed:1753178400.0\nneff_size:{len(neff)}\ncompleted_by_rank:0\n"
    )
    return path
