"""Model folders for tests: copies of the tiny golden ones, to change at will."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "data" / "golden"
ADDER = ROOT / "examples" / "adder"
TINY = "llama-gqa-tied-llama3"

SMALL = {"seq_len": 64, "context_encoding_buckets": "32,64", "token_generation_buckets": "64"}
"""A configuration of three graphs."""


def copy_model(folder: Path, name: str = TINY, **config: Any) -> Path:
    """A golden model copied to ``folder``, some fields of its ``config.json`` changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (GOLDEN / name / "model").iterdir():
        shutil.copyfile(file, folder / file.name)
    if config:
        change_config(folder, **config)
    return folder


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def change_weights(folder: Path, at: int = -1) -> None:
    """Another fine-tune: the same tensors with one byte changed."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
