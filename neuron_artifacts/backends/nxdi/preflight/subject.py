"""What preflight looks at: a request with everything around it that decides its fate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from neuron_artifacts.backends.nxdi.families import FAMILIES, Family
from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.toolchain.platforms import Platform


class Resources(Protocol):
    """What this machine has, in bytes: memory, and free disk where the artifact will lie."""

    @property
    def memory(self) -> int: ...

    @property
    def disk(self) -> int: ...


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide how it is laid over cores, from its ``config.json``."""

    model_type: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    intermediate_size: int
    max_positions: int | None
    sliding_window: int | None
    is_tied: bool


@dataclass(frozen=True)
class Subject:
    """A request to examine.

    ``fields`` is the finished NeuronConfig, ``asked`` the arguments it was made from. ``level``
    is None where the SDK is not known here. ``shape`` is None where ``config.json`` does not
    name the sizes, ``draft_shape`` also where there is no draft.
    """

    model: ModelSnapshot
    fields: Mapping[str, Any]
    asked: Mapping[str, Any]
    level: SdkLevel | None
    platform: Platform
    draft: ModelSnapshot | None
    environ: Mapping[str, str]
    resources: Resources | None

    @property
    def shape(self) -> Shape | None:
        return read_shape(self.model.config)

    @property
    def draft_shape(self) -> Shape | None:
        return None if self.draft is None else read_shape(self.draft.config)

    @property
    def family(self) -> Family | None:
        """The class of NxD Inference, as far as it is known here: Mistral is run as Llama."""
        names = self.model.config.get("architectures")
        name = str(names[0]) if isinstance(names, list) and names else ""
        return FAMILIES.get("LlamaForCausalLM" if name == "MistralForCausalLM" else name)

    @property
    def speculates(self) -> bool:
        return bool(self.fields.get("enable_fused_speculation"))

    @property
    def is_eagle(self) -> bool:
        return bool(self.fields.get("enable_eagle_speculation"))

    def field(self, name: str, default: Any = None) -> Any:
        """A field of NeuronConfig; older levels lack some."""
        value = self.fields.get(name)
        return default if value is None else value


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """The sizes in ``config.json``, those of the text model where there are several."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) else config
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    if not all(_is_size(text.get(name)) for name in names):
        return None
    layers, hidden, heads, vocabulary = (int(text[name]) for name in names)
    window = text.get("sliding_window")
    if text.get("use_sliding_window") is False:
        window = None
    return Shape(
        model_type=str(config.get("model_type", "")),
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=_size(text.get("num_key_value_heads"), heads),
        head_dim=_size(text.get("head_dim"), hidden // heads),
        vocab_size=vocabulary,
        intermediate_size=_size(text.get("intermediate_size"), 4 * hidden),
        max_positions=_size(text.get("max_position_embeddings"), 0) or None,
        sliding_window=_size(window, 0) or None,
        is_tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(value: Any, default: int) -> int:
    return int(value) if _is_size(value) else default
