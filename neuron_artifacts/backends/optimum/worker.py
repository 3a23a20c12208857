"""Drives optimum-neuron 0.4.0 and later in the interpreter that has it.

Self-contained: Python 3.8 syntax, the standard library and what optimum-neuron brings. Names and
arguments follow optimum-neuron v0.4.5, ``optimum/neuron/models/inference/``: ``modeling_utils.py``
(``get_neuron_config``, ``export``, ``from_pretrained``, ``save_pretrained``),
``backend/pretrained_model.py`` (files, shards) and ``backend/modules/decoder/`` (``forward``).

=========== ====================================================================================
action      does
=========== ====================================================================================
export      compile ``model`` (folder or hub id) for ``neuron_config`` into ``output``
fetch       download the pre-exported repository ``model`` into ``output``
shard       write the weights of ``checkpoint`` for the graphs that lie in ``output``
inspect     what lies in ``output``, and whether this optimum-neuron takes it
validate    the same, and load it onto the device with ``load``
hash        the name this export has in the Hugging Face Neuron cache
=========== ====================================================================================
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Emit = Callable[..., None]
    Request = dict[str, Any]

MODULES = (
    "optimum.neuron.models.inference.modeling_utils",  # from 0.4.1 on
    "optimum.neuron.modeling_decoder",
)
TASKS = {
    "text-generation": "NeuronModelForCausalLM",
    "feature-extraction": "NeuronModelForEmbedding",
}
CONFIG_NAME = "neuron_config.json"
WEIGHTS = ["*.safetensors*"]

_ARGUMENTS = {
    "batch_size": "batch_size",
    "sequence_length": "sequence_length",
    "tp_degree": "tensor_parallel_size",
}
"""Fields of the configuration that ``get_neuron_config`` takes, and what it calls them."""
_DERIVED = ("max_batch_size", "n_active_tokens", "max_context_length", "local_ranks_size")
"""What ``NxDNeuronConfig`` computes from other fields unless it is given (config.py:89-124)."""


def run(request: Request, emit: Emit) -> dict[str, Any]:
    actions = {
        "export": export,
        "fetch": fetch,
        "shard": shard,
        "inspect": look,
        "validate": validate,
        "hash": hash_entry,
    }
    if request["action"] not in actions:
        raise ValueError(f"unknown action {request['action']!r}")
    return actions[request["action"]](request, emit)


def export(request: Request, emit: Emit) -> dict[str, Any]:
    emit("phase", name="configure")
    config = make_config(request)
    set_variables(config)
    graphs = list_graphs(config)
    emit("phase", name="compile")
    for phase, bucket in graphs:
        emit("graph", phase=phase, bucket=bucket, state="compiling")
    model = model_class(request).export(
        request["model"], neuron_config=config, revision=request.get("revision"),
        load_weights=False,
    )  # fmt: skip
    for phase, bucket in graphs:
        emit("graph", phase=phase, bucket=bucket, state="compiled")
    emit("phase", name="save")
    output = Path(request["output"])
    model.save_pretrained(str(output))
    if request.get("shard", True) and missing_shards(output, config):
        emit("phase", name="shard")
        model.shard_checkpoint(find_checkpoint(request, config), str(output / "checkpoint"))
    return describe(output, config, shard=request.get("shard", True))


def fetch(request: Request, emit: Emit) -> dict[str, Any]:
    hub = import_module("huggingface_hub")
    repository, revision = request["model"], request.get("revision")
    output = Path(request["output"])
    if not hub.HfApi().file_exists(repository, CONFIG_NAME, revision=revision):
        raise FileNotFoundError(
            f"{repository} has no {CONFIG_NAME}: it is no pre-exported repository"
        )
    emit("phase", name="download")
    hub.snapshot_download(repository, revision=revision, local_dir=str(output))
    shutil.rmtree(str(output / ".cache"), ignore_errors=True)  # the download's own records
    config = read_config(output)
    if request.get("shard", True) and missing_shards(output, config):
        return shard(request, emit)
    return describe(output, config, shard=request.get("shard", True))


def shard(request: Request, emit: Emit) -> dict[str, Any]:
    """No device is needed: the library's sharder reads a checkpoint and writes files."""
    emit("phase", name="shard")
    output = Path(request["output"])
    config = read_config(output)
    set_variables(config)
    model_config = load_model_config(str(output))
    cls = concrete_class(request, model_config)
    model = cls(config=model_config, neuron_config=config, **untraced(cls, model_config, config))
    model.shard_checkpoint(find_checkpoint(request, config), str(output / "checkpoint"))
    return describe(output, config, shard=True)


def untraced(cls: Any, model_config: Any, config: Any) -> dict[str, Any]:
    """Arguments of a model that can shard weights, and has no compiled graphs."""
    if not hasattr(cls, "create_graph_builders"):  # 0.4.0 (modeling_decoder.py:433, 726)
        context, token, speculation = cls.create_model_wrappers(
            model_cls=cls._model_cls, config=model_config, neuron_config=config
        )
        return {
            "traced_model": None,
            "context_encoding_model": context,
            "token_generation_model": token,
            "speculation_model": speculation,
        }
    builders = cls.create_graph_builders(config=model_config, neuron_config=config)
    if "traced_models" in inspect.signature(cls.__init__).parameters:  # after 0.4.5
        return {"graph_builders": builders, "traced_models": dict.fromkeys(builders)}
    return {"graph_builders": builders, "traced_model": None}


def look(request: Request, _emit: Emit) -> dict[str, Any]:
    output = Path(request["output"])
    return describe(output, read_config(output), shard=False)


def validate(request: Request, emit: Emit) -> dict[str, Any]:
    output = Path(request["output"])
    description = describe(output, read_config(output), shard=True)
    if request.get("load"):
        emit("phase", name="load")
        model_class(request).from_pretrained(str(output))
    return dict(description, loaded=bool(request.get("load")))


def hash_entry(request: Request, _emit: Emit) -> dict[str, Any]:
    """As ``_export`` names its entry (backend/pretrained_model.py:348-363)."""
    neuron_config = make_config(request)
    config = load_model_config(request["model"], revision=request.get("revision"))
    config = config.get_text_config()
    config.torch_dtype = neuron_config.torch_dtype
    if hasattr(config, "head_dim") and config.head_dim is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    entries = import_module("optimum.neuron.cache.entries.single_model")
    entry = entries.SingleModelCacheEntry(
        request.get("model_id", request["model"]), task=task_of(request), config=config,
        neuron_config=neuron_config,
    )  # fmt: skip
    return {
        "hash": entry.hash,
        "architecture": entry.arch_digest() if hasattr(entry, "arch_digest") else None,  # 0.4.5
        "document": entry.serialize(),
    }


def set_variables(config: Any) -> None:
    """neuronx-distributed up to SDK 2.27 reads it for four ranks on trn1, where a launcher would
    have set it (parallel_layers/parallel_state.py)."""
    if config.tp_degree == 4:
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(config.world_size))


def load_model_config(model: str, **arguments: Any) -> Any:
    return import_module("transformers").AutoConfig.from_pretrained(model, **arguments)


def task_of(request: Request) -> str:
    return str(request.get("task", "text-generation"))


def model_class(request: Request) -> Any:
    task = task_of(request)
    if task not in TASKS:
        raise ValueError(f"task {task!r} is none of {', '.join(sorted(TASKS))}")
    library = import_module(next(name for name in MODULES if find_spec(name)))
    if not hasattr(library, TASKS[task]):
        raise ValueError(f"this optimum-neuron has no {TASKS[task]}, which {task} takes")
    cls = getattr(library, TASKS[task])
    if "instance_type" not in inspect.signature(cls.get_neuron_config).parameters:
        raise RuntimeError(
            "this optimum-neuron compiles for the host alone: it takes 0.4.0 or later"
        )
    return cls


def concrete_class(request: Request, model_config: Any) -> Any:
    """The class of this model's type."""
    cls = model_class(request)
    if hasattr(cls, "_get_neuron_model_class"):
        return cls._get_neuron_model_class(model_config)
    return import_module(MODULES[1]).get_neuron_causal_lm_model_class(model_config)  # 0.4.0


def make_config(request: Request) -> Any:
    """The library's defaults for this model, with what ``neuron_config`` says instead."""
    wanted = dict(request.get("neuron_config") or {})
    arguments = {_ARGUMENTS[name]: wanted[name] for name in _ARGUMENTS if name in wanted}
    config = model_class(request).get_neuron_config(
        request["model"], revision=request.get("revision"), instance_type=request.get("target"),
        **arguments,
    )  # fmt: skip
    return with_changes(config, wanted)


def with_changes(config: Any, changes: dict[str, Any]) -> Any:
    """The same class with other arguments: what it derives from them is derived anew."""
    parameters = list(inspect.signature(type(config).__init__).parameters)[1:]
    unknown = sorted(set(changes) - set(parameters))
    if unknown:
        raise ValueError(f"{type(config).__name__} has no field {', '.join(unknown)}")
    kept = {name: getattr(config, name) for name in parameters if name not in _DERIVED}
    return type(config)(**dict(kept, **changes))


def read_config(directory: Path) -> Any:
    """The saved configuration; the library refuses those of its own and the compiler's other
    versions (configuration_utils.py:228-240)."""
    if not (directory / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{directory} has no {CONFIG_NAME}")
    library = import_module("optimum.neuron.configuration_utils")
    return library.NeuronConfig.from_pretrained(str(directory))


def list_graphs(config: Any) -> list[tuple[str, int]]:
    """Phase and bucket of each graph (``create_graph_builders`` of modeling_decoder.py)."""
    chunk = getattr(config, "prefill_chunk_size", 0)
    prompt = ("context_encoding", config.max_context_length)
    graphs = [("chunked_prefill", chunk) if chunk else prompt]
    graphs.append(("token_generation", config.sequence_length))
    if config.speculation_length > 0:
        graphs.append(("speculation", config.sequence_length))
    return graphs


def find_checkpoint(request: Request, config: Any) -> str:
    """A folder with the original weights."""
    for name in ("checkpoint", "model"):
        if request.get(name) and Path(request[name]).is_dir():
            return str(request[name])
    repository = config.checkpoint_id or request["model"]
    revision = config.checkpoint_revision or request.get("revision")
    download = import_module("huggingface_hub").snapshot_download
    return str(download(repository, revision=revision, allow_patterns=WEIGHTS))


def missing_shards(output: Path, config: Any) -> list[str]:
    """Files of local ranks that are not there, for each bundle of graphs."""
    checkpoint = output / "checkpoint"
    bundles = [path.name[len("model_") : -len(".pt")] for path in output.glob("model_*.pt")]
    ranks = range(config.start_rank_id, config.start_rank_id + config.local_ranks_size)
    return [
        str(path.relative_to(output))
        for folder in [checkpoint / name for name in sorted(bundles)] or [checkpoint]
        for rank in ranks
        for path in [folder / "weights" / f"tp{rank}_sharded_checkpoint.safetensors"]
        if not path.is_file()
    ]


def describe(output: Path, config: Any, shard: bool) -> dict[str, Any]:
    """What was written. With ``shard``, weights of every local rank must be there."""
    models = sorted(path.name for path in output.glob("model*.pt"))
    if not models:
        raise FileNotFoundError(f"{output} has no model.pt: its export was not finished")
    missing = missing_shards(output, config)
    if shard and missing:
        raise FileNotFoundError(f"{output} lacks {', '.join(missing)}")
    return {
        "neuron_config": json.loads((output / CONFIG_NAME).read_text(encoding="utf-8")),
        "graphs": [
            {"phase": phase, "bucket": bucket, "file": models[0]}
            for phase, bucket in list_graphs(config)
        ],
        "files": {
            str(path.relative_to(output)): path.stat().st_size
            for path in sorted(output.rglob("*"))
            if path.is_file()
        },
        "missing_shards": missing,
    }


def serve(request: Request, emit: Emit, exchange: Any) -> None:
    emit("phase", name="load")
    session = Session(model_class(request).from_pretrained(request["output"]))
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

    The graph of token generation runs every row. One that sits a step out sees its last token
    once more at its position, which leaves its cache as it was; the wrapper's own padding would
    write the first row's token there (decoder_wrappers.py:55-64).
    """

    def __init__(self, model: Any) -> None:
        self._torch, self._model = import_module("torch"), model
        self._config = model.neuron_config
        if self._config.batch_size > 1 and not self._config.continuous_batching:
            raise ValueError(
                f"a model of batch size {self._config.batch_size} without continuous_batching "
                "runs its prompts together and cannot be served"
            )
        self._chunk = getattr(self._config, "prefill_chunk_size", 0)
        if self._chunk and self._config.on_device_sampling:
            raise ValueError(
                "chunked prefill gives logits where on-device sampling gives tokens: export with "
                "prefill_chunk_size 0, or without on_device_sampling"
            )
        size = self._config.batch_size
        self._last = [(0, 0)] * size
        self._sampling = [(1.0, 1.0, 1.0)] * size

    def facts(self) -> dict[str, Any]:
        config = self._config
        return {
            "batch_size": config.batch_size,
            "seq_len": config.sequence_length,
            "max_context_length": config.max_context_length,
            "vocab_size": self._model.config.get_text_config().vocab_size,
            "context_encoding_buckets": [config.max_context_length],
            "token_generation_buckets": [config.sequence_length],
            "on_device_sampling": bool(config.on_device_sampling),
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
        if not 0 < len(tokens) <= self._config.max_context_length:
            raise ValueError(f"a prompt has 1 to {self._config.max_context_length} tokens")
        if len(tokens) == 1:  # forward() takes one token for token generation
            return self._decode([slot], tokens, [0])
        self._last[slot] = tokens[-1], len(tokens) - 1
        run = self._model.prefill_chunk if self._chunk else self._model
        size, output = self._chunk or len(tokens), None
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            output = run(
                self._integers([part]),
                position_ids=self._integers([list(range(start, start + len(part)))]),
                seq_ids=self._integers([slot]),
                sampling_params=self._floats([self._sampling[slot]]),
            )
        return bare(output)

    def _decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Any:
        for row, slot in enumerate(slots):
            self._last[slot] = tokens[row], positions[row]
        output = self._model(
            self._integers([[token] for token, _ in self._last]),
            position_ids=self._integers([[position] for _, position in self._last]),
            seq_ids=self._integers(list(range(len(self._last)))),
            sampling_params=self._floats(self._sampling),
        )
        return bare(output)[self._integers(slots)]

    def _set_sampling(self, slot: int, temperature: float, top_k: int, top_p: float) -> None:
        """Bounds of ``validate_sampling_params`` (generation/sampling.py:102-146)."""
        most = self._config.max_topk
        top_k = most if top_k < 1 else min(top_k, most)
        self._sampling[slot] = float(top_k), float(top_p), float(temperature)

    def _warm_up(self) -> None:
        """Run every graph; on a slot only while no slot is in use."""
        if all(position == 0 for _, position in self._last):
            self._prefill(0, [0, 0])
            self._last[0] = (0, 0)
        self._decode([], [], [])

    def _answer(self, output: Any) -> tuple[dict[str, Any], bytes]:
        if self._config.on_device_sampling:
            return {"tokens": [int(token) for token in output.flatten().tolist()]}, b""
        logits = output[:, -1, :].to(self._torch.float32).contiguous()
        return {}, logits.numpy().astype("<f4").tobytes()

    def _integers(self, values: Any) -> Any:
        return self._torch.tensor(values, dtype=self._torch.int64)

    def _floats(self, values: Any) -> Any:
        return self._torch.tensor(values, dtype=self._torch.float32)


def bare(output: Any) -> Any:
    """Token ids or logits; 0.4.0 to 0.4.3 wrap either (modeling_decoder.py:583)."""
    return getattr(output, "tokens", output)
