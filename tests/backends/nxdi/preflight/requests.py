"""Requests to examine: a model of any size without its bytes, and whatever is changed in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.families import FAMILIES, family_for
from neuron_artifacts.backends.nxdi.levels import host_of, level_of
from neuron_artifacts.backends.nxdi.neuron_config import fill_in_neuron_config
from neuron_artifacts.backends.nxdi.preflight import examine
from neuron_artifacts.errors import UnsupportedModelError
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.model.safetensors_header import DTYPE_BITS, TensorInfo
from neuron_artifacts.toolchain.platforms import resolve_platform

LLAMA_8B: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}  # fmt: skip

BASE: Mapping[str, Any] = {
    "tp_degree": 8, "batch_size": 1, "seq_len": 1024, "enable_bucketing": True,
    "torch_dtype": "bfloat16", "save_sharded_checkpoint": True,
}  # fmt: skip
"""Arguments that nothing speaks against."""


@dataclass(frozen=True)
class Machine:
    memory: int = 1 << 41
    disk: int = 1 << 42


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama, Qwen or Mixtral checkpoint, from its configuration."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    kv = config.get("num_key_value_heads", heads) * dim
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        found |= {
            f"{block}.self_attn.q_proj.weight": (heads * dim, hidden),
            f"{block}.self_attn.k_proj.weight": (kv, hidden),
            f"{block}.self_attn.v_proj.weight": (kv, hidden),
            f"{block}.self_attn.o_proj.weight": (hidden, heads * dim),
            f"{block}.input_layernorm.weight": (hidden,),
            f"{block}.post_attention_layernorm.weight": (hidden,),
            **_feed_forward(block, config),
        }
    found["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def eagle_draft(**changes: Any) -> ModelSnapshot:
    """An EAGLE draft for :data:`LLAMA_8B` that has its target's head."""
    config = {**LLAMA_8B, "num_hidden_layers": 1, **changes.pop("config", {})}
    hidden = config["hidden_size"]
    tensors = shapes(config)
    del tensors["model.layers.0.input_layernorm.weight"], tensors["model.norm.weight"]
    tensors["fc.weight"] = (hidden, 2 * hidden)
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = shape
    return snapshot(config, tensors=tensors, name="draft")


def snapshot(
    config: Mapping[str, Any],
    *,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    dtype: str = "BF16",
    name: str = "org/model",
    root: Path | None = None,
) -> ModelSnapshot:
    """A model known by its headers only, as one on the hub is."""
    infos, position = {}, 0
    for tensor, shape in (shapes(config) if tensors is None else tensors).items():
        size = DTYPE_BITS[dtype] // 8
        for length in shape:
            size *= length
        infos[tensor] = TensorInfo(tensor, dtype, shape, position, position + size)
        position += size
    return ModelSnapshot(
        name=name, revision="main", root=root, config=config, weight_files=(), asset_files=(),
        tensors={"model.safetensors": infos},
    )  # fmt: skip


def examine_request(
    *,
    model: ModelSnapshot | None = None,
    draft: ModelSnapshot | None = None,
    sdk: str | None = "2.29",
    target: str = "trn1",
    environ: Mapping[str, str] | None = None,
    machine: Machine | None = None,
    fields: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> tuple[Finding, ...]:
    """Examine :data:`BASE` with other arguments; ``fields`` are laid over the finished ones."""
    model = model or snapshot(LLAMA_8B)
    raw = {**BASE, **arguments}
    environ = environ or {}
    platform = resolve_platform(target, None, environ)
    known = level_of(sdk or "2.29")
    try:
        family = family_for(model.config, None, known)
    except UnsupportedModelError:
        family = FAMILIES["LlamaForCausalLM"]
    finished = fill_in_neuron_config(
        raw, family=family, level=known, host=host_of(known, target, environ, "3.11")
    )
    return examine(
        model, {**finished, **(fields or {})}, raw=raw, level=known if sdk else None,
        platform=platform, draft=draft, environ=environ, resources=machine or Machine(),
    )  # fmt: skip


def adapter(
    folder: Path, *, weights: str | None = "adapter_model.safetensors", **config: Any
) -> str:
    """A LoRA adapter's folder; ``weights`` names the file that holds them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "org/model"}
    text = json.dumps({k: v for k, v in {**content, **config}.items() if v is not None})
    (folder / "adapter_config.json").write_text(text)
    if weights is not None:
        (folder / weights).write_bytes(b"")
    return str(folder)


def _feed_forward(block: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = config["hidden_size"]
    experts = config.get("num_local_experts") or config.get("num_experts")
    if not experts:
        inner = config["intermediate_size"]
        return {
            f"{block}.mlp.{name}.weight": (hidden, inner)
            if name == "down_proj"
            else (inner, hidden)
            for name in ("gate_proj", "up_proj", "down_proj")
        }
    inner = config.get("moe_intermediate_size") or config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {f"{block}.mlp.gate.weight": (experts, hidden)}
    for expert in range(experts):
        found |= {
            f"{block}.mlp.experts.{expert}.{name}.weight": (inner, hidden)
            for name in ("gate_proj", "up_proj", "down_proj")
        }
    return found
