"""Serves what NxD Inference has loaded, slot by slot, in the interpreter that has it.

``worker.py`` loads this file by its path. Python 3.8 syntax, the standard library and torch. The
model is called as vLLM calls it (``NeuronCausalLM.forward`` of vllm-neuron's
``vllm_neuron/worker/neuronx_distributed_model_loader.py``), with no block tables: slots are the
lines of its key/value cache.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Emit = Callable[..., None]
    Graphs = Sequence[tuple[str, int]]

CONTEXT_ENCODING = "context_encoding_model"
_ONLY_VLLM = (
    "enable_fused_speculation", "speculation_length", "is_medusa", "is_block_kv_layout",
    "async_mode", "lora_config",
)  # fmt: skip
"""Fields of graphs that need more than tokens and slots: drafts, block tables, adapters."""


def serve(model: Any, directory: str, graphs: Graphs, emit: Emit, exchange: Any) -> None:
    """Load ``model``; ``graphs`` are the tags and buckets it has."""
    check_servable(model.config.neuron_config)
    model.load(directory)
    session = Session(model, graphs)
    if session.is_fixed:
        emit("warning", text="how tokens are sampled was fixed when the graphs were compiled")
    exchange.ready(session.facts())
    for call in exchange:
        try:
            payload, data = session.call(call.method, call.payload)
        except Exception as error:  # noqa: BLE001 - the caller is told, and may go on
            exchange.fail(error)
        else:
            exchange.answer(payload, data)


def check_servable(fields: Any) -> None:
    """Refuse graphs whose rows are not independent sequences of tokens."""
    for name in _ONLY_VLLM:
        if getattr(fields, name, None):
            raise ValueError(f"graphs with {name} are served by vLLM: --engine vllm")
    if fields.padding_side != "right":
        raise ValueError("graphs that pad on the left cannot be served slot by slot")
    if fields.batch_size > 1 and not (fields.is_continuous_batching and fields.ctx_batch_size == 1):
        # Prompts would run together, and rows without one would overwrite their slots.
        raise ValueError(
            f"batch size {fields.batch_size} is served slot by slot with is_continuous_batching "
            "and ctx_batch_size 1 only"
        )


class Session:
    """A loaded model with one cache line a slot.

    The graph of token generation runs every row. The library fills rows that are not named with
    the first one's token and position, which would overwrite what another sequence has there
    (``_pad_helper`` of models/model_wrapper.py); so all are named, and one that sits a step out
    sees again a token it has seen, at that token's position, which leaves its cache as it was. It
    does not go beyond the others' positions: the longest chooses the bucket.
    """

    def __init__(self, model: Any, graphs: Graphs) -> None:
        self._torch, self._model, self._graphs = import_module("torch"), model, graphs
        self._fields = model.config.neuron_config
        self._sampling_config = self._fields.on_device_sampling_config
        self._sampling = [(1.0, 1.0, 1.0)] * self._fields.batch_size
        self._seen: list[list[int]] = [[] for _ in self._sampling]

    @property
    def is_fixed(self) -> bool:
        return self._sampling_config is not None and not self._sampling_config.dynamic

    def facts(self) -> dict[str, Any]:
        fields = self._fields
        return {
            "batch_size": fields.batch_size,
            "seq_len": fields.seq_len,
            "max_context_length": fields.max_context_length,
            "vocab_size": self._model.vocab_size,
            "context_encoding_buckets": self._buckets(CONTEXT_ENCODING),
            "token_generation_buckets": self._buckets("token_generation_model"),
            "on_device_sampling": self._sampling_config is not None,
        }

    def _buckets(self, tag: str) -> list[int]:
        return [bucket for name, bucket in self._graphs if name == tag]

    def call(self, method: str, payload: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if method == "prefill":
            return self._answer(self._prefill(payload["slot"], payload["tokens"]))
        if method == "decode":
            return self._answer(
                self._decode(payload["slots"], payload["tokens"], payload["positions"])
            )
        if method == "sampling":
            self._set_sampling(**payload)
        elif method != "warm_up":  # load() has run every graph once
            raise ValueError(f"unknown method {method!r}")
        return {}, b""

    def _prefill(self, slot: int, tokens: list[int]) -> Any:
        if not 0 < len(tokens) <= self._fields.max_context_length:
            raise ValueError(f"a prompt has 1 to {self._fields.max_context_length} tokens")
        self._seen[slot] = list(tokens)
        positions = list(range(len(tokens)))
        if len(tokens) == 1:
            # The library pads with position 1, and takes the logits of the first highest position
            # (pad_inputs of models/model_wrapper.py): of the padding. With zeros it is the token.
            padding = [0] * (min(self._buckets(CONTEXT_ENCODING)) - 1)
            tokens, positions = tokens + padding, positions + padding
        return self._run([tokens], [positions], [slot])

    def _decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Any:
        rows = [self._repeat(slot, max(positions)) for slot in range(len(self._seen))]
        for row, slot in enumerate(slots):
            rows[slot] = tokens[row], positions[row]
            self._seen[slot][positions[row] :] = [tokens[row]]
        output = self._run(
            [[token] for token, _ in rows], [[at] for _, at in rows], list(range(len(rows)))
        )
        return output[self._integers(slots)]

    def _repeat(self, slot: int, position: int) -> tuple[int, int]:
        """A token that ``slot`` has seen; at position 0 it would be a prompt (``_is_prefill``)."""
        seen = self._seen[slot]
        position = min(position, len(seen) - 1)
        return (seen[position], position) if position > 0 else (0, 1)

    def _run(self, tokens: Any, positions: Any, slots: list[int]) -> Any:
        with self._torch.inference_mode():
            output = self._model(
                self._integers(tokens),
                attention_mask=None,
                position_ids=self._integers(positions),
                seq_ids=self._integers(slots),
                sampling_params=self._floats([self._sampling[slot] for slot in slots]),
            )
        if self._sampling_config is not None:
            return output.hidden_states
        return output.logits[:, -1, :]

    def _set_sampling(self, slot: int, temperature: float, top_k: int, top_p: float) -> None:
        """NxD reads a top_k below 1 as: any token, whatever its logit (modules/generation)."""
        most = getattr(self._sampling_config, "global_topk", 256)
        top_k = most if top_k < 1 else min(top_k, most)
        self._sampling[slot] = float(top_k), float(top_p), float(temperature)

    def _answer(self, output: Any) -> tuple[dict[str, Any], bytes]:
        if self._sampling_config is not None:
            return {"tokens": [int(token) for token in output.flatten().tolist()]}, b""
        logits = output.to(self._torch.float32).contiguous()
        return {}, logits.numpy().astype("<f4").tobytes()

    def _integers(self, values: Any) -> Any:
        return self._torch.tensor(values, dtype=self._torch.int64)

    def _floats(self, values: Any) -> Any:
        return self._torch.tensor(values, dtype=self._torch.float32)
