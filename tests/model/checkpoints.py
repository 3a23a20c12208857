"""Small checkpoints as bytes, well formed unless told otherwise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def encode(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with this header, which may be raw bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def tensors(*, fill: int = 1, metadata: dict[str, str] | None = None, **shapes: Any) -> bytes:
    """A file of float32 tensors of these shapes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, shape in shapes.items():
        end = position + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return encode(header, bytes([fill]) * position)


def single(**shapes: Any) -> dict[str, bytes]:
    """Files of a model with one weight file."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b"{}",
        "model.safetensors": tensors(**(shapes or {"a": (2, 3), "b": (4,)})),
    }


def sharded() -> dict[str, bytes]:
    """Files of a model with two shards and an index."""
    files = single()
    del files["model.safetensors"]
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    index = {"metadata": {"total_size": 40}, "weight_map": {"a": first, "b": second}}
    return files | {
        first: tensors(a=(2, 3)),
        second: tensors(b=(4,)),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
