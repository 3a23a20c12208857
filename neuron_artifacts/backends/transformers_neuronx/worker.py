"""Drives transformers-neuronx 0.13 (legacy) in the interpreter that has it.

Self-contained: Python 3.8 syntax, the standard library and what transformers-neuronx brings. The
model is built as vLLM builds it (upstreaming-to-vllm, branch ``main``,
``vllm/model_executor/model_loader/neuron.py``), and saved and loaded as the library does
(transformers-neuronx, ``src/transformers_neuronx/base.py``): one file a graph, called by the hash
of its HLO, while the weights stay in the checkpoint.

======== =======================================================================================
action   does
======== =======================================================================================
compile  build ``model``, compile its graphs and save them in ``output``
validate build it again and find each of its graphs in ``output``; with ``load``, on the device
======== =======================================================================================
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Emit = Callable[..., None]
    Request = dict[str, Any]

ARCHITECTURES = {
    "LlamaForCausalLM": ("transformers_neuronx.llama.model", "LlamaForSampling"),
    "MistralForCausalLM": ("transformers_neuronx.mistral.model", "MistralForSampling"),
    "MixtralForCausalLM": ("transformers_neuronx.mixtral.model", "MixtralForSampling"),
}
"""Those whose caches have slots (continuous batching): vLLM's table (neuron.py:37-42), and
Mixtral, which the library has too."""

LAYOUTS = {"MixtralForCausalLM": "HSB"}
"""Where vLLM's layout, BSH, is refused (mixtral/hlo.py:34)."""

AMP = {
    "auto": "f32",
    "half": "f16",
    "float16": "f16",
    "bfloat16": "bf16",
    "float": "f32",
    "float32": "f32",
}
"""vLLM's names of dtypes, as the library calls them (neuron.py:24-34)."""

QUANT_DTYPES = ("s8", "f8e4m3fn")
MAX_TOP_K = 256
"""``_MAX_NEURON_SAMPLING_TOP_K`` of vLLM's ``worker/neuron_model_runner.py:73``."""
SETTINGS_NAME = "neuron_config.json"

_NESTED = {
    "sparse_attn": "SparseAttnConfig",
    "kv_cache_quant": "KVCacheQuantizationConfig",
    "continuous_batching": "ContinuousBatchingConfig",
    "quant": "QuantizationConfig",
    "on_device_generation": "GenerationConfig",
}
"""Fields of ``NeuronConfig`` that are objects, and their classes (neuron.py:262-297)."""


def run(request: Request, emit: Emit) -> dict[str, Any]:
    actions = {"compile": compile_model, "validate": validate}
    if request["action"] not in actions:
        raise ValueError(f"unknown action {request['action']!r}")
    return actions[request["action"]](request, emit)


def compile_model(request: Request, emit: Emit) -> dict[str, Any]:
    """Without a ``device`` the library compiles on the host alone (``cpu_compile``)."""
    output = Path(request["output"])
    settings = make_settings(request, os.environ)
    emit("phase", name="build")
    model = build(request["model"], settings, request.get("jobs"))
    graphs = list_graphs(model)
    emit("phase", name="compile")
    for phase, bucket in graphs:
        emit("graph", phase=phase, bucket=bucket, state="compiling")
    if request.get("device", True):
        model.to_neuron()
    elif hasattr(model, "cpu_compile"):
        model.cpu_compile()
    else:
        raise RuntimeError("this transformers-neuronx compiles on a host with a Neuron device only")
    for phase, bucket in graphs:
        emit("graph", phase=phase, bucket=bucket, state="compiled")
    emit("phase", name="save")
    # Weights of its own only where embeddings are on the device too (base.py:39-47).
    own_weights = bool(model.neuron_config.on_device_embedding)
    output.mkdir(parents=True, exist_ok=True)
    model.save(str(output), sharded_weights=own_weights)
    (output / SETTINGS_NAME).write_text(json.dumps(settings, indent=2, sort_keys=True))
    return describe(output, model, settings)


def validate(request: Request, emit: Emit) -> dict[str, Any]:
    output = Path(request["output"])
    settings = saved_settings(output)
    if request.get("load"):
        emit("phase", name="load")
        model = load(request, settings)
    else:
        emit("phase", name="build")
        model = build(checkpoint_of(request), settings, None)
    return dict(describe(output, model, settings), loaded=bool(request.get("load")))


def load(request: Request, settings: dict[str, Any]) -> Any:
    """Graphs from ``output``, and from nowhere else: ``load`` before ``to_neuron`` makes the
    library read them where it would compile (base.py:77-89)."""
    model = build(checkpoint_of(request), settings, None)
    model.load(str(request["output"]))
    model.to_neuron()
    return model


def checkpoint_of(request: Request) -> str:
    return str(request.get("model") or request["output"])


def make_settings(request: Request, environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides about graphs, as plain data, so that it can be built again."""
    length, size = int(request["max_model_len"]), int(request["batch_size"])
    sampling = request.get("on_device_sampling")
    if sampling is None:
        sampling = not int(environ.get("NEURON_ON_DEVICE_SAMPLING_DISABLED", "0"))
    amp = AMP[request.get("dtype", "auto")]
    architecture = request.get("architecture") or read_architecture(request["model"])
    layout = LAYOUTS.get(architecture, "BSH")
    neuron_config: dict[str, Any] = {
        "collectives_layout": layout,
        "attention_layout": layout,
        "fuse_qkv": True,
        "quant": quantization(request.get("quantization"), amp, environ),
        "continuous_batching": {"batch_size_for_shared_caches": size},
        "weight_tiling": bool(request.get("quantization")),
        "on_device_generation": sampling_defaults(length, size) if sampling else None,
    }
    neuron_config.update(request.get("neuron_config") or {})
    contexts, tokens = (
        request.get("context_encoding_buckets"),
        request.get("token_generation_buckets"),
    )
    return {
        "architecture": architecture,
        "tp_degree": int(request["tp_degree"]),
        "amp": amp,
        "batch_size": size,
        "context_length_estimate": contexts
        or buckets(environ.get("NEURON_CONTEXT_LENGTH_BUCKETS"), [length]),
        "n_positions": tokens or buckets(environ.get("NEURON_TOKEN_GEN_BUCKETS"), [length]),
        "neuron_config": neuron_config,
    }


def buckets(value: str | None, default: list[int]) -> list[int]:
    """Integers between commas; blanks and empty items do not count (neuron.py:192-200)."""
    if value is None:
        return default
    return [int(item) for item in value.split(",") if item.strip()]


def quantization(method: str | None, amp: str, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """``NeuronQuantConfig`` of vLLM's ``layers/quantization/neuron_quant.py:26-42``."""
    if not method:
        return None
    if method != "neuron_quant":
        raise ValueError(f"quantization {method!r} is not neuron_quant")
    dtype = environ.get("NEURON_QUANT_DTYPE", "s8")
    if dtype not in QUANT_DTYPES:
        raise ValueError(f"NEURON_QUANT_DTYPE {dtype!r} is none of {', '.join(QUANT_DTYPES)}")
    return {"quant_dtype": dtype, "dequant_dtype": amp, "quantize_method": "vector_dynamic"}


def sampling_defaults(max_length: int, size: int) -> dict[str, Any]:
    """``_init_neuron_sampling`` of vLLM's ``worker/neuron_model_runner.py:111-130``."""
    return {
        "max_length": max_length,
        "do_sample": True,
        "per_batch_line": True,
        "top_k": [MAX_TOP_K] * size,
        "top_p": [1.0] * size,
        "temperature": [1.0] * size,
        "dynamic": True,
        "global_top_k": MAX_TOP_K,
    }


def read_architecture(model: str) -> str:
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return str(name)
    raise ValueError(f"architectures {names} are none of {', '.join(sorted(ARCHITECTURES))}")


def build(model: str, settings: dict[str, Any], jobs: int | None) -> Any:
    """The library's model with weights named and graphs not yet made."""
    module, name = ARCHITECTURES[settings["architecture"]]
    library = import_module("transformers_neuronx.config")
    arguments = dict(settings["neuron_config"])
    for field, kind in _NESTED.items():
        if isinstance(arguments.get(field), dict):
            arguments[field] = getattr(library, kind)(**arguments[field])
    if jobs:
        arguments["compilation_worker_count"] = jobs
    return getattr(import_module(module), name).from_pretrained(
        model,
        tp_degree=settings["tp_degree"],
        amp=settings["amp"],
        neuron_config=library.NeuronConfig(**arguments),
        context_length_estimate=settings["context_length_estimate"],
        n_positions=settings["n_positions"],
        batch_size=settings["batch_size"],
    )


def list_graphs(model: Any) -> list[tuple[str, int]]:
    """Phase and bucket of each graph; both lists are the library's own (llama/model.py:68-69)."""
    contexts = [("context_encoding", int(bucket)) for bucket in model.context_buckets]
    return contexts + [("token_generation", int(bucket)) for bucket in model.token_buckets]


def saved_settings(output: Path) -> dict[str, Any]:
    path = output / SETTINGS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{output} has no {SETTINGS_NAME}: its compile was not finished")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def describe(output: Path, model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What was written. Which file is which graph only the library knows, by its HLO's hash."""
    files = sorted(path.name for path in output.glob("*.neff"))
    if not files:
        raise FileNotFoundError(f"{output} holds no NEFF")
    return {
        "neuron_config": settings,
        "graphs": [{"phase": phase, "bucket": bucket} for phase, bucket in list_graphs(model)],
        "neffs": files,
        "files": {
            str(path.relative_to(output)): path.stat().st_size
            for path in sorted(output.rglob("*"))
            if path.is_file()
        },
    }


def serve(request: Request, emit: Emit, exchange: Any) -> None:
    emit("phase", name="load")
    settings = saved_settings(Path(request["output"]))
    session = Session(load(request, settings), settings)
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
    token 0 at position 0, which would overwrite the first token of a sequence that sits a step
    out (base.py:575-587); here such a row sees its last token once more at its position, which
    leaves its cache as it was.
    """

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self._torch, self._model, self._settings = import_module("torch"), model, settings
        self._sampling = model.neuron_config.on_device_generation
        self._last = [(0, 0)] * settings["batch_size"]

    def facts(self) -> dict[str, Any]:
        contexts, tokens = self._model.context_buckets, self._model.token_buckets
        return {
            "batch_size": len(self._last),
            "seq_len": max(tokens),
            "max_context_length": max(contexts),
            "vocab_size": self._model.config.vocab_size,
            "context_encoding_buckets": list(contexts),
            "token_generation_buckets": list(tokens),
            "on_device_sampling": self._sampling is not None,
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
        elif method == "warm_up":
            self._warm_up()
        else:
            raise ValueError(f"unknown method {method!r}")
        return {}, b""

    def _prefill(self, slot: int, tokens: list[int]) -> Any:
        longest = max(self._model.context_buckets)
        if not 0 < len(tokens) <= longest:
            raise ValueError(f"a prompt has 1 to {longest} tokens")
        if len(tokens) == 1:  # the library takes one token for token generation (base.py:502-505)
            return self._decode([slot], tokens, [0])
        self._last[slot] = tokens[-1], len(tokens) - 1
        return self._run([tokens], [list(range(len(tokens)))], [slot])

    def _decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Any:
        for row, slot in enumerate(slots):
            self._last[slot] = tokens[row], positions[row]
        output = self._run(
            [[token] for token, _ in self._last],
            [[position] for _, position in self._last],
            list(range(len(self._last))),
        )
        return output[self._integers(slots)]

    def _run(self, tokens: Any, positions: Any, slots: list[int]) -> Any:
        with self._torch.inference_mode():
            return self._model(
                self._integers(tokens),
                cache_ids=self._integers(positions),
                start_ids=self._integers(slots),
            )

    def _set_sampling(self, slot: int, temperature: float, top_k: int, top_p: float) -> None:
        """``_convert_to_neuron_sampling_params`` of vLLM's neuron_model_runner.py:355-369."""
        config = self._sampling
        if config is None:
            return
        if not (config.dynamic and config.per_batch_line):
            raise ValueError("the graphs were compiled with one way of sampling for all")
        config.top_k[slot] = top_k if 1 <= top_k <= MAX_TOP_K else MAX_TOP_K
        config.top_p[slot], config.temperature[slot] = top_p, temperature
        self._model.update_generation_config(config)

    def _warm_up(self) -> None:
        """Run graphs; on a slot only while no slot is in use."""
        if all(position == 0 for _, position in self._last):
            self._prefill(0, [0, 0])
            self._last[0] = (0, 0)
        self._decode([], [], [])

    def _answer(self, output: Any) -> tuple[dict[str, Any], bytes]:
        if self._sampling is not None:
            return {"tokens": [int(token) for token in output.flatten().tolist()]}, b""
        logits = output.to(self._torch.float32).contiguous()
        return {}, logits.numpy().astype("<f4").tobytes()

    def _integers(self, values: Any) -> Any:
        return self._torch.tensor(values, dtype=self._torch.int64)
