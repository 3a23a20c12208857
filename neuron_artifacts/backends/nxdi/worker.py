"""Drives NxD Inference in the interpreter that has it.

Self-contained: Python 3.8 syntax, the standard library and what NxD Inference brings. Names and
arguments follow neuronx-distributed-inference 0.1 to 0.9: ``models/application_base.py`` (compile,
shard_weights, load, save_quantized_state_dict), ``models/config.py``, ``utils/constants.py``
(MODEL_TYPES), ``utils/hf_adapter.py``, and the way vLLM calls them
(``vllm_neuron/worker/neuronx_distributed_model_loader.py`` of vllm-neuron).

========= ======================================================================================
action    does
========= ======================================================================================
compile   compile ``model`` for ``neuron_config`` into ``output``; shard its weights unless refused
shard     write the weights for the graphs that lie in ``output``
hash      the configuration text, and the MD5 by which vLLM would call it
validate  what lies in ``output``, as the library reads it; with ``load``, on the device
========= ======================================================================================
"""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Emit = Callable[..., None]
    Request = dict[str, Any]

ROOT = "neuronx_distributed_inference"
MULTIMODAL = ("text_neuron_config", "vision_neuron_config")
TAGS = {
    "context_encoding_model": "context_encoding_buckets",
    "token_generation_model": "token_generation_buckets",
    "speculation_model": "token_generation_buckets",
    "fused_speculation_model": "token_generation_buckets",
    "medusa_speculation_model": "token_generation_buckets",
}
"""Submodels by tag (models/model_wrapper.py), and the list their buckets come from."""
WATCH_SECONDS = 0.5

_ALIASES = ("async", "logical_neuron_cores", "disable_normalize_top_k_affinities")
"""Arguments that become a field of another name."""
_OBSOLETE = ("trace_tokengen_model", "lora_serving_config")
"""What loaders of vLLM pass to releases that have no such field any more, and drop it."""


def run(request: Request, emit: Emit) -> dict[str, Any]:
    actions = {
        "compile": compile_model, "shard": shard, "hash": hash_config, "validate": validate,
    }  # fmt: skip
    if request["action"] not in actions:
        raise ValueError(f"unknown action {request['action']!r}")
    return actions[request["action"]](request, emit)


def compile_model(request: Request, emit: Emit) -> dict[str, Any]:
    emit("phase", name="configure")
    model = make_model(request)
    if request.get("quantize"):
        emit("phase", name="quantize")
        path = Path(model.config.neuron_config.quantized_checkpoints_path)
        path.mkdir(parents=True, exist_ok=True)  # a folder gives safetensors, a file a pickle
        type(model).save_quantized_state_dict(request["model"], model.config)
    emit("phase", name="compile")
    with Progress(list_graphs(model), emit):
        model.compile(request["output"])
    save_config(request, model)
    return describe(request, model)


def shard(request: Request, emit: Emit) -> dict[str, Any]:
    """Sharding reads the checkpoint and the configuration, not the graphs."""
    emit("phase", name="configure")
    model = make_model(request)
    output = request["output"]
    emit("phase", name="shard")
    model.shard_weights(output)
    save_config(request, model)
    return describe(request, model)


def save_config(request: Request, model: Any) -> None:
    """With the draft under the name it was given by, not the folder it was read from."""
    draft = request.get("draft")
    if draft:
        model.config.fused_spec_config.draft_model_path = draft.get("name_or_path", draft["model"])
    model.config.save(request["output"])


def hash_config(request: Request, _emit: Emit) -> dict[str, Any]:
    config = make_config(request)
    if request.get("draft"):
        name = request["draft"].get("name_or_path", request["draft"]["model"])
        config.fused_spec_config.draft_model_path = name
    return text_of(config)


def validate(request: Request, emit: Emit) -> dict[str, Any]:
    output = request["output"]
    model = model_class(request, output)(output)
    if request.get("load"):
        emit("phase", name="load")
        model.load(output)
    return {**text_of(model.config), "loaded": bool(request.get("load"))}


def make_model(request: Request) -> Any:
    return model_class(request, request["model"])(request["model"], make_config(request))


def make_config(request: Request) -> Any:
    """InferenceConfig as vLLM's loader builds it."""
    cls = model_class(request, request["model"])
    load_config = library("utils.hf_adapter").load_pretrained_config(request["model"])
    arguments = request.get("neuron_config") or {}
    if any(request.get(name) is not None for name in MULTIMODAL):
        parts = {
            name: neuron_config(cls, {**arguments, **(request.get(name) or {})})
            for name in MULTIMODAL
        }
        config = cls.get_config_cls()(load_config=load_config, **parts)
    else:
        config = cls.get_config_cls()(neuron_config(cls, arguments), load_config=load_config)
    # The text must not depend on where a hub model lies in a cache.
    config._name_or_path = request.get("name_or_path", request["model"])
    if request.get("draft"):
        config.fused_spec_config = fused_speculation(cls, config, request["draft"])
    return config


def neuron_config(cls: Any, arguments: dict[str, Any]) -> Any:
    """The class drops what it does not know, with a warning; here that is an error."""
    config = cls.get_neuron_config_cls()(**arguments)
    unknown = sorted(
        name for name in arguments
        if not hasattr(config, name) and name not in (*_ALIASES, *_OBSOLETE)
    )  # fmt: skip
    if unknown:
        raise ValueError(
            f"{type(config).__name__} of NxD Inference {version()} has no field "
            f"{', '.join(map(repr, unknown))}"
        )
    return config


def fused_speculation(cls: Any, config: Any, draft: dict[str, Any]) -> Any:
    """The draft, configured as the target's copy (``_init_fused_spec_config``)."""
    fields = copy.deepcopy(config.neuron_config)
    is_eagle = bool(getattr(fields, "enable_eagle_speculation", False))
    if not is_eagle:
        fields.speculation_length = 0
    fields.enable_fused_speculation = False
    if getattr(fields, "draft_model_modules_to_not_convert", None):
        fields.modules_to_not_convert = fields.draft_model_modules_to_not_convert
    if is_eagle:
        fields.is_eagle_draft = True
    for name, value in (draft.get("neuron_config") or {}).items():
        setattr(fields, name, value)
    load_config = library("utils.hf_adapter").load_pretrained_config(draft["model"])
    draft_config = cls.get_config_cls()(fields, load_config=load_config)
    draft_config._name_or_path = draft.get("name_or_path", draft["model"])
    return library("models.config").FusedSpecNeuronConfig(
        cls._model_cls, draft_config=draft_config, draft_model_path=draft["model"]
    )


def model_class(request: Request, folder: str) -> Any:
    """From the architecture, by vLLM's rule (``_get_neuron_model_cls``) and NxD's registry."""
    name = request.get("architecture") or read_architecture(folder)
    if name == "LlavaForConditionalGeneration":
        model, task = "pixtral", "causal-lm"
    else:
        model, _, task = name.partition("For")
        model = model.lower()
        model = {"qwen3moe": "qwen3_moe", "gptoss": "gpt_oss"}.get(model, model)
        task = "causal-lm" if task in ("CausalLM", "ConditionalGeneration") else task.lower()
    types = library("utils.constants").MODEL_TYPES
    if model == "mistral" and model not in types:
        model = "llama"  # as vLLM's forks do: its graphs are Llama's
    try:
        return types[model][task]
    except KeyError:
        raise ValueError(
            f"NxD Inference {version()} has no class for {name}; it has {', '.join(sorted(types))}"
        ) from None


def read_architecture(folder: str) -> str:
    import json

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    if not names:
        raise ValueError(f"{folder}/config.json names no architectures")
    return str(names[0])


def library(name: str) -> Any:
    return import_module(f"{ROOT}.{name}")


def version() -> str:
    from importlib.metadata import version as installed

    return installed("neuronx-distributed-inference")


def text_of(config: Any) -> dict[str, Any]:
    """What vLLM hashes: the text itself, without the newline that a saved one ends with."""
    text = config.to_json_string()
    return {"document": text, "md5": hashlib.md5(text.encode("utf-8")).hexdigest()}  # noqa: S324


def list_graphs(model: Any) -> list[tuple[str, int, int]]:
    """Tag, index and bucket of each graph that will be compiled."""
    graphs = []
    for submodel in model.models:
        buckets = submodel.config.neuron_config.buckets
        for index, bucket in enumerate(buckets):
            size = bucket[-1] if isinstance(bucket, (list, tuple)) else bucket
            graphs.append((submodel.tag, index, int(size)))
    return graphs


class Progress:
    """Tells of graphs as their NEFFs appear: the library itself tells nothing.

    Each is compiled in ``<work directory>/<tag>/_tp0_bk<index>/`` (trace/model_builder.py).
    """

    def __init__(self, graphs: list[tuple[str, int, int]], emit: Emit) -> None:
        self._left, self._emit = list(graphs), emit
        self._root = Path(os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"))  # noqa: S108
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        for tag, _, bucket in self._left:
            self._emit("graph", phase=tag, bucket=bucket, state="compiling")
        self._thread.start()

    def __exit__(self, kind: Any, *rest: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            for tag, _, bucket in self._left:
                self._emit("graph", phase=tag, bucket=bucket, state="compiled")

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            for graph in list(self._left):
                tag, index, bucket = graph
                if (self._root / tag / f"_tp0_bk{index}" / "graph.neff").is_file():
                    self._left.remove(graph)
                    self._emit("graph", phase=tag, bucket=bucket, state="compiled")


def describe(request: Request, model: Any) -> dict[str, Any]:
    """What was written; what must be there and is not is an error."""
    output = Path(request["output"])
    is_split = any(request.get(name) is not None for name in MULTIMODAL)
    parts = [output / "text_model", output / "vision_model"] if is_split else [output]
    if is_split and not parts[0].is_dir():
        parts = [output]  # Mllama keeps both in one
    fields = model.config.neuron_config
    wanted = [part / "model.pt" for part in parts]
    if getattr(fields, "save_sharded_checkpoint", False):
        first = fields.start_rank_id
        wanted += [
            part / "weights" / f"tp{rank}_sharded_checkpoint.safetensors"
            for part in parts
            for rank in range(first, first + fields.local_ranks_size)
        ]
    missing = [str(path.relative_to(output)) for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{output} lacks {', '.join(missing)}")
    graphs = [{"phase": tag, "bucket": bucket} for tag, _, bucket in list_graphs(model)]
    return {**text_of(model.config), "graphs": graphs, "version": version()}


def serve(request: Request, emit: Emit, exchange: Any) -> None:
    emit("phase", name="load")
    output = request["output"]
    model = model_class(request, output)(output)
    model.load(output)
    session = Session(model)
    exchange.ready(session.facts())
    for call in exchange:
        try:
            payload, data = session.call(call.method, call.payload)
        except Exception as error:  # noqa: BLE001 - the caller is told, and may go on
            exchange.fail(error)
        else:
            exchange.answer(payload, data)


class Session:
    """A loaded model with one cache line a slot.

    The graph of token generation runs every row. The library fills rows that are not named with
    the first one's token and position, which would overwrite what another sequence has there
    (``_pad_helper`` of models/model_wrapper.py); so all are named, and one that sits a step out
    sees its last token once more at its position, which leaves its cache as it was.
    """

    def __init__(self, model: Any) -> None:
        self._torch, self._model = import_module("torch"), model
        self._fields = model.config.neuron_config
        if getattr(self._fields, "enable_fused_speculation", False):
            raise ValueError("fused speculation is served by vLLM: --engine vllm")
        if self._fields.batch_size > 1 and not self._fields.is_continuous_batching:
            raise ValueError(
                f"batch size {self._fields.batch_size} without is_continuous_batching runs its "
                "prompts together and cannot be served slot by slot"
            )
        self._sampling_config = self._fields.on_device_sampling_config
        size = self._fields.batch_size
        self._sampling = [(1.0, 1.0, 1.0)] * size
        self._last = [(0, 1)] * size

    def facts(self) -> dict[str, Any]:
        fields, config = self._fields, self._model.config
        text = getattr(config, "text_config", config)
        buckets = {tag: [b for t, _, b in list_graphs(self._model) if t == tag] for tag in TAGS}
        decoding = [b for tag in list(TAGS)[1:] for b in buckets[tag]]
        return {
            "batch_size": fields.batch_size,
            "seq_len": fields.seq_len,
            "max_context_length": fields.max_context_length,
            "vocab_size": text.vocab_size,
            "context_encoding_buckets": buckets["context_encoding_model"],
            "token_generation_buckets": decoding,
            "on_device_sampling": self._sampling_config is not None,
        }

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
        self._last[slot] = tokens[-1], len(tokens) - 1
        return self._run([tokens], [list(range(len(tokens)))], [slot])

    def _decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Any:
        for row, slot in enumerate(slots):
            self._last[slot] = tokens[row], positions[row]
        output = self._run(
            [[token] for token, _ in self._last],
            # A row at position 0 would make it a prompt (_is_prefill of models/model_base.py).
            [[max(position, 1)] for _, position in self._last],
            list(range(len(self._last))),
        )
        return output[self._integers(slots)]

    def _run(self, tokens: Any, positions: Any, slots: list[int]) -> Any:
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
