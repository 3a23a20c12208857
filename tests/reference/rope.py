"""The golden rotary tables, ``tests/data/golden/rope.{json,safetensors}``.

``rope.json`` maps a name to a ``config.json``; ``rope.safetensors`` holds the inverse frequencies
``<name>.inv_freq`` (``head_dim / 2``) and the factored ``<name>.cos`` and ``<name>.sin``
(``len(POSITIONS), head_dim / 2``), all float32, as transformers' own rotary module computes them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
POSITIONS = (0, 1, 2, 17, 255, 4096, 32767)


def _config(
    head_dim: int | None, *, heads: int = 4, hidden: int | None = None, **fields: Any
) -> dict[str, Any]:
    size = {} if head_dim is None else {"head_dim": head_dim}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 32,
        "hidden_size": hidden or heads * (head_dim or 0),
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "torch_dtype": "float32",
        **size,
        **fields,
    }


def _llama3(factor: float, original: int) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "none": _config(64, rope_theta=10000.0),
    "none-no-theta": _config(16),
    "none-derived-head": _config(None, hidden=48, rope_theta=1000000.0),
    "none-null": _config(6, rope_theta=1000.0, rope_scaling=None),
    "none-named": _config(6, rope_parameters={"rope_type": "default", "rope_theta": 5e6}),
    "linear": _config(64, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.5}),
    "linear-new": _config(
        12, rope_parameters={"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5}
    ),
    "llama3.1": _config(128, rope_theta=500000.0, rope_scaling=_llama3(8.0, 8192)),
    "llama3.2": _config(64, rope_theta=500000.0, rope_scaling=_llama3(32.0, 8192)),
    "llama3-short": _config(16, rope_theta=10000.0, rope_scaling=_llama3(4.0, 48)),
    "yarn": _config(
        128,
        rope_theta=1000000.0,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    "yarn-no-original": _config(
        32, rope_theta=10000.0, rope_scaling={"rope_type": "yarn", "factor": 4.0}
    ),
    "yarn-attention-factor": _config(
        64,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 16.0,
            "attention_factor": 0.8,
            "original_max_position_embeddings": 4096,
        },
    ),
    "yarn-mscale": _config(
        64,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 40.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
    ),
    "yarn-mscale-alone": _config(
        32,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 40.0,
            "mscale": 2.0,
            "original_max_position_embeddings": 4096,
        },
    ),
    "yarn-untruncated": _config(
        20,
        rope_theta=150000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 12.0,
            "beta_slow": 3.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ),
    "yarn-factor-one": _config(
        32,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 1.0,
            "original_max_position_embeddings": 131072,
        },
    ),
    "yarn-one-edge": _config(
        8,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 4.0,
            "beta_slow": 4.0,
            "truncate": False,
            "original_max_position_embeddings": 512,
        },
    ),
}


def tables(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Inverse frequencies, cosines and sines of one configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        parsed = transformers.AutoConfig.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_config(parsed)
    module = model.model.rotary_emb
    cos, sin = module(torch.zeros(1, dtype=torch.float32), torch.tensor([POSITIONS]))
    half = cos.shape[-1] // 2
    return {
        "inv_freq": module.inv_freq.detach().clone(),
        "cos": cos[0, :, :half].contiguous(),
        "sin": sin[0, :, :half].contiguous(),
    }


def _live() -> tuple[str, dict[str, torch.Tensor]]:
    document = json.dumps({"positions": POSITIONS, "configs": CONFIGS}, indent=1) + "\n"
    values = {
        f"{name}.{part}": values
        for name, config in CONFIGS.items()
        for part, values in tables(config).items()
    }
    return document, values


def write() -> None:
    document, values = _live()
    (GOLDEN / "rope.json").write_text(document, encoding="utf-8")
    save_file(values, GOLDEN / "rope.safetensors")


def check() -> list[str]:
    """How the committed tables differ from what transformers says today."""
    document, values = _live()
    if (GOLDEN / "rope.json").read_text(encoding="utf-8") != document:
        return ["rope.json is not what rope.py says"]
    stored = load_file(GOLDEN / "rope.safetensors")
    return [
        f"{name} differs"
        for name in sorted(stored.keys() | values.keys())
        if name not in stored
        or name not in values
        or not torch.allclose(stored[name], values[name], rtol=1e-6, atol=1e-6)
    ]
