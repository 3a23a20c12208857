"""The weights a graph reads, in the order of its pointer table: some globals, then layer by layer.

Names and shapes are those of transformers' checkpoints (``models/*/modeling_*.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neuron_artifacts.backends.cpu.arch import Arch


@dataclass(frozen=True)
class Weight:
    """``slot`` is its name in generated code, ``name`` the tensor's (in a layer: below the layer).

    A ``matrix`` is read as stored; a ``vector`` is widened to float32 when it is loaded.
    """

    slot: str
    name: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> Literal["matrix", "vector"]:
        return "matrix" if len(self.shape) == 2 else "vector"


def global_weights(arch: Arch) -> tuple[Weight, ...]:
    table = (arch.vocab_size, arch.hidden_size)
    embedding = "model.embed_tokens.weight"
    return (
        Weight("EMBEDDING", embedding, table),
        Weight("HEAD", embedding if arch.tie_word_embeddings else "lm_head.weight", table),
        Weight("FINAL_NORM", "model.norm.weight", (arch.hidden_size,)),
    )


def layer_weights(arch: Arch) -> tuple[Weight, ...]:
    hidden, inner = arch.hidden_size, arch.intermediate_size
    queries, pairs = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    attention = (
        ("Q", "q_proj", queries, hidden, arch.qkv_bias),
        ("K", "k_proj", pairs, hidden, arch.qkv_bias),
        ("V", "v_proj", pairs, hidden, arch.qkv_bias),
        ("O", "o_proj", hidden, queries, arch.o_bias),
    )
    mlp = (
        ("GATE", "gate_proj", inner, hidden, arch.mlp_bias),
        ("UP", "up_proj", inner, hidden, arch.mlp_bias),
        ("DOWN", "down_proj", hidden, inner, arch.mlp_bias),
    )
    weights = [
        Weight("INPUT_NORM", "input_layernorm.weight", (hidden,)),
        Weight("POST_NORM", "post_attention_layernorm.weight", (hidden,)),
    ]
    for block, matrices in (("self_attn", attention), ("mlp", mlp)):
        for slot, name, rows, columns, biased in matrices:
            weights.append(Weight(slot, f"{block}.{name}.weight", (rows, columns)))
            if biased:
                weights.append(Weight(f"{slot}_BIAS", f"{block}.{name}.bias", (rows,)))
    if arch.qk_norm:
        for slot, name in (("Q_NORM", "q_norm"), ("K_NORM", "k_norm")):
            weights.append(Weight(slot, f"self_attn.{name}.weight", (arch.head_dim,)))
    return tuple(weights)


def pointer_table(arch: Arch) -> tuple[Weight, ...]:
    """Every entry with its full tensor name; tied embeddings name one tensor twice."""
    layers = (
        Weight(weight.slot, f"model.layers.{index}.{weight.name}", weight.shape)
        for index in range(arch.num_layers)
        for weight in layer_weights(arch)
    )
    return (*global_weights(arch), *layers)
