"""Drives NxD Inference in the interpreter that has it.

Self-contained: Python 3.8 syntax, the standard library and what NxD Inference brings; serving is
in ``session.py``, which is loaded by its path and contains itself as well. Names and
arguments follow neuronx-distributed-inference 0.1 to 0.9: ``models/application_base.py`` (compile,
shard_weights, load, save_quantized_state_dict), ``models/config.py``, ``utils/constants.py``
(MODEL_TYPES), ``utils/hf_adapter.py``, and the way vLLM calls them
(``vllm_neuron/worker/neuronx_distributed_model_loader.py`` of vllm-neuron).

========= ======================================================================================
action    does
========= ======================================================================================
compile   compile ``model`` for ``neuron_config`` into ``output``; shard its weights unless refused
shard     write the weights for the graphs that lie in ``output``
hash      the configuration text, and the MD5 by which vLLM would call it; with ``graphs``, what
          would be compiled
validate  what lies in ``output``, as the library reads it; with ``load``, on the device
========= ======================================================================================
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
import os
import shutil
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
CONTEXT_ENCODING = "context_encoding_model"
QUANTIZED, DRAFT = "quantized", "draft"
"""Where an artifact carries them if nothing is sharded (``artifact/neuron_weights.py``)."""
MARKER = "neuron-artifacts.json"
"""In a quantised checkpoint that was made here (``inputs.py``)."""
WORK_DIRECTORY = "BASE_COMPILE_WORK_DIR"
LAYOUT_OPTION = "NXD_LAYOUT_TRANSFORMATION_OPTIONS"
WATCH_SECONDS = 0.5

_ROUTER_ARGUMENTS = ("router_act_fn", "router_dtype")
"""Read by RouterConfig.from_kwargs, and then called unexpected (MoENeuronConfig)."""
_OBSOLETE = ("trace_tokengen_model", "lora_serving_config")
"""What loaders of vLLM pass to releases that have no such field any more, and drop it."""
REFUSALS = (
    AssertionError, AttributeError, FileNotFoundError, LookupError, NotImplementedError, TypeError,
    ValueError,
)  # fmt: skip
"""What building a configuration or a model raises for values that it does not take."""


def run(request: Request, emit: Emit) -> dict[str, Any]:
    actions = {
        "compile": compile_model, "shard": shard, "hash": hash_config, "validate": validate,
    }  # fmt: skip
    if request["action"] not in actions:
        raise ValueError(f"unknown action {request['action']!r}")
    return actions[request["action"]](request, emit)


def compile_model(request: Request, emit: Emit) -> dict[str, Any]:
    if not os.environ.get(WORK_DIRECTORY):
        raise ValueError(f"{WORK_DIRECTORY} is not set; the default is wiped by every compile")
    model = prepare(request, emit)
    emit("phase", name="compile")
    with Progress(list_graphs(model), emit):
        model.compile(request["output"])
    save_config(request, model)
    return describe(request, model)


def shard(request: Request, emit: Emit) -> dict[str, Any]:
    """Sharding reads the checkpoint and the configuration, not the graphs."""
    if os.environ.get(LAYOUT_OPTION):
        raise ValueError(f"weights in the layout of {LAYOUT_OPTION} are written by a compile only")
    model = prepare(request, emit)
    output = request["output"]
    emit("phase", name="shard")
    if hasattr(model, "shard_text_weights"):  # models/image_to_text_model_base.py
        model.shard_text_weights(f"{output}/text_model/")
        model.shard_vision_weights(f"{output}/vision_model/")
    elif hasattr(model, "shard_weights"):
        model.shard_weights(output)
    elif model.config.neuron_config.save_sharded_checkpoint:  # 0.1 shards while it compiles only
        model.get_builder().shard_checkpoint(serialize_path=f"{output}/weights/")
    save_config(request, model)
    return describe(request, model)


def prepare(request: Request, emit: Emit) -> Any:
    emit("phase", name="configure")
    model = make_model(request)
    if request.get("quantize"):
        emit("phase", name="quantize")
        quantize(type(model), model.config, request["model"], request["quantize"])
    return model


def save_config(request: Request, model: Any) -> None:
    set_names(request, model.config)
    model.config.save(request["output"])


def set_names(request: Request, config: Any) -> None:
    """Put down models as they were named, not the folders that they are read from.

    The text must not depend on where a hub model lies in a cache.
    """
    name = request.get("name_or_path", request["model"])
    for part in (config, getattr(config, "text_config", config)):
        if hasattr(part, "_name_or_path"):
            part._name_or_path = name
    draft = request.get("draft")
    if draft and config.fused_spec_config is not None:
        name = draft.get("name_or_path", draft["model"])
        config.fused_spec_config.draft_model_path = name
        config.fused_spec_config.draft_config._name_or_path = name


def quantize(cls: Any, config: Any, model: str, origin: Any) -> None:
    """Write the quantised checkpoint whole or not at all, with what it was made from."""
    fields = config.neuron_config
    path = Path(fields.quantized_checkpoints_path)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)  # a folder gives safetensors, a file a pickle
    fields.quantized_checkpoints_path = str(partial)
    cls.save_quantized_state_dict(model, config)
    fields.quantized_checkpoints_path = str(path)
    if isinstance(origin, dict):
        files = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in partial.iterdir()}
        (partial / MARKER).write_text(json.dumps({**origin, "files": files}), encoding="utf-8")
    partial.rename(path)


def hash_config(request: Request, emit: Emit) -> dict[str, Any]:
    """As vLLM has it, arguments that the library drops included.

    With ``graphs``, what the library does not take is an answer: its own checks are in the way.
    """
    try:
        return _hash_config(request, emit)
    except REFUSALS as error:
        if not request.get("graphs"):
            raise
        return {"refused": f"{type(error).__name__}: {error}"}


def _hash_config(request: Request, emit: Emit) -> dict[str, Any]:
    config = make_config(request, lambda text: emit("warning", text=text))
    set_names(request, config)
    told = text_of(config)  # as vLLM takes it: models change what they are made of
    if request.get("graphs"):
        model = model_class(request, request["model"])(request["model"], config)
        told["graphs"] = [graph.told() for graph in list_graphs(model)]
    return told


def validate(request: Request, emit: Emit) -> dict[str, Any]:
    model = open_model(request)
    if request.get("load"):
        emit("phase", name="load")
        model.load(request["output"])
    return {**text_of(model.config), "loaded": bool(request.get("load"))}


def open_model(request: Request) -> Any:
    """What lies in ``output``; weights that are not sharded lie there too.

    The library would rather take them from where they were when it compiled, whatever lies there
    now (``checkpoint_loader_fn`` of models/application_base.py).
    """
    output = request["output"]
    model = model_class(request, output)(output)
    config = model.config
    config._name_or_path = output
    if Path(output, QUANTIZED).is_dir():
        config.neuron_config.quantized_checkpoints_path = f"{output}/{QUANTIZED}"
    if Path(output, DRAFT).is_dir():
        config.fused_spec_config.draft_model_path = f"{output}/{DRAFT}"
    set_variables(config.neuron_config)
    return model


def make_model(request: Request) -> Any:
    model = model_class(request, request["model"])(request["model"], make_config(request, refuse))
    set_variables(model.config.neuron_config)
    return model


def refuse(text: str) -> None:
    raise ValueError(text)


def set_variables(fields: Any) -> None:
    """What the library reads, and only its inference_demo.py, or a launcher, sets."""
    if (fields.quantized and fields.quantization_dtype == "f8e4m3") or fields.kv_cache_quant:
        os.environ.setdefault("XLA_HANDLE_SPECIAL_SCALAR", "1")
        os.environ.setdefault("UNSAFE_FP8FNCAST", "1")
    if fields.tp_degree == 4:  # on trn1; from 2.28 on this is NxD's own default (parallel_state.py)
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(fields.world_size))


def make_config(request: Request, complain: Callable[[str], None]) -> Any:
    """InferenceConfig as vLLM's loader builds it; arguments in vain are complained of."""
    cls = model_class(request, request["model"])
    make = cls.get_config_cls()
    load_config = library("utils.hf_adapter").load_pretrained_config(request["model"])
    arguments = request.get("neuron_config") or {}
    if set(MULTIMODAL) <= set(inspect.signature(make.__init__).parameters):
        parts = {
            name: neuron_config(cls, {**arguments, **(request.get(name) or {})}, complain)
            for name in MULTIMODAL
        }
        config = make(load_config=load_config, **parts)
    else:
        given = [name for name in MULTIMODAL if request.get(name)]
        if given:
            complain(f"{cls.__name__} has one configuration and takes no {', '.join(given)}")
        config = make(neuron_config(cls, arguments, complain), load_config=load_config)
    if request.get("draft") and not config.neuron_config.enable_fused_speculation:
        complain("a draft is read with enable_fused_speculation only")
    elif request.get("draft"):
        config.fused_spec_config = fused_speculation(cls, config, request["draft"])
    return config


def neuron_config(cls: Any, arguments: dict[str, Any], complain: Callable[[str], None]) -> Any:
    """The class drops what it does not know, with a warning or, in nested ones, without."""
    with Leftovers() as told:
        config = cls.get_neuron_config_cls()(**copy.deepcopy(arguments))
    unknown = [
        name for name in arguments
        if f"{name!r}:" in told.text and name not in (*_ROUTER_ARGUMENTS, *_OBSOLETE)
    ]  # fmt: skip
    for name, value in arguments.items():
        nested = getattr(config, name, None)
        if isinstance(value, dict) and hasattr(nested, "__dict__"):
            unknown += [f"{name}.{inner}" for inner in value if inner not in vars(nested)]
    if unknown:
        complain(
            f"{type(config).__name__} of NxD Inference {version()} has no argument "
            f"{', '.join(sorted(unknown))}"
        )
    return config


class Leftovers(logging.Handler):
    """Hears which arguments NeuronConfig logs as unexpected (the end of its ``__init__``)."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if "Unexpected keyword arguments" in record.getMessage():
            self.text += record.getMessage()

    def __enter__(self) -> Leftovers:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self)


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
    own, named = cls, {}
    if draft.get("names_class"):  # vllm-neuron from 0.4.1 on
        own = draft_class(cls, draft["model"])
        named = {"draft_model_cls": own}
    draft_config = own.get_config_cls()(fields, load_config=load_config)
    return library("models.config").FusedSpecNeuronConfig(
        cls._model_cls, draft_config=draft_config, draft_model_path=draft["model"], **named
    )


def draft_class(target: Any, folder: str) -> Any:
    try:
        return model_class({}, folder)
    except ValueError:
        return target


def model_class(request: Request, folder: str) -> Any:
    """From the architecture, by vLLM's rule (``_get_neuron_model_cls``) and NxD's registry."""
    name = request.get("architecture") or read_architecture(Path(folder))
    family, _, task = name.partition("For")
    family = {"LlavaForConditionalGeneration": "pixtral"}.get(name, family.lower())
    types = library("utils.constants").MODEL_TYPES
    known = {key.replace("_", ""): key for key in types}
    # Mistral's graphs are Llama's where it has no class, as in vLLM's forks.
    key = known.get(family) or (known["llama"] if family == "mistral" else None)
    if key is None or task not in ("CausalLM", "ConditionalGeneration"):
        raise ValueError(
            f"NxD Inference {version()} has no class for {name}; it has {', '.join(sorted(types))}"
        )
    return types[key]["causal-lm"]


def read_architecture(folder: Path) -> str:
    """Of a checkpoint, or of what was compiled from one."""
    path = folder / "config.json"
    if not path.is_file():
        path = folder / "neuron_config.json"
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    if not names:
        raise ValueError(f"{path} names no architectures")
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


def submodels(model: Any) -> list[tuple[str, Any]]:
    """Each with the folder of its part, in the artifact and in the work directory."""
    if hasattr(model, "text_models"):  # models/image_to_text_model_base.py
        return [("text_model", each) for each in model.text_models] + [
            ("vision_model", each) for each in model.vision_models
        ]
    return [("", each) for each in model.models]


class Graph:
    """One that is compiled in ``<part>/<tag>/_tp0_bk<index>/`` (trace/model_builder.py)."""

    def __init__(self, part: str, tag: str, index: int, bucket: Any) -> None:
        if isinstance(bucket, (list, tuple)):  # (prompt, prefix), (1, length) or (batch, length)
            bucket = bucket[0] if tag == CONTEXT_ENCODING else bucket[-1]
        self.part, self.tag, self.bucket = part, tag, int(bucket)
        self.folder = Path(part, tag, f"_tp0_bk{index}")

    def told(self) -> dict[str, Any]:
        return {
            "phase": self.tag, "bucket": self.bucket, "file": str(Path(self.part, "model.pt")),
        }  # fmt: skip


def list_graphs(model: Any) -> list[Graph]:
    return [
        Graph(part, submodel.tag, index, bucket)
        for part, submodel in submodels(model)
        for index, bucket in enumerate(submodel.config.neuron_config.buckets)
    ]


class Progress:
    """Tells of graphs as their folders and NEFFs appear: the library itself tells nothing."""

    def __init__(self, graphs: list[Graph], emit: Emit) -> None:
        self._emit = emit
        self._waiting, self._running = graphs, graphs[:0]
        self._root = Path(os.environ[WORK_DIRECTORY])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)  # as tracing does; an older run's NEFFs
        self._thread.start()

    def __exit__(self, kind: Any, *rest: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self._look()

    def _look(self) -> None:
        begun = [graph for graph in self._waiting if (self._root / graph.folder).is_dir()]
        self._tell(begun, "compiling")
        self._waiting = [graph for graph in self._waiting if graph not in begun]
        self._running += begun
        ended = [g for g in self._running if (self._root / g.folder / "graph.neff").is_file()]
        self._tell(ended, "compiled")
        self._running = [graph for graph in self._running if graph not in ended]

    def _tell(self, graphs: list[Graph], state: str) -> None:
        for graph in graphs:
            self._emit("graph", phase=graph.tag, bucket=graph.bucket, state=state)


def describe(request: Request, model: Any) -> dict[str, Any]:
    """What was written; what must be there and is not is an error."""
    output = Path(request["output"])
    wanted = [output / "neuron_config.json"]
    for part, submodel in dict(submodels(model)).items():
        wanted.append(output / part / "model.pt")
        fields = submodel.config.neuron_config
        if fields.save_sharded_checkpoint and not getattr(fields, "skip_sharding", False):
            ranks = range(fields.start_rank_id, fields.start_rank_id + fields.local_ranks_size)
            name = "weights/tp{}_sharded_checkpoint.safetensors"
            wanted += [output / part / name.format(rank) for rank in ranks]
    missing = [str(path.relative_to(output)) for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{output} lacks {', '.join(missing)}")
    return {
        **text_of(model.config),
        "saved_md5": hashlib.md5(wanted[0].read_bytes().rstrip(b"\n")).hexdigest(),  # noqa: S324
        "graphs": [graph.told() for graph in list_graphs(model)],
        "logical_nc_config": getattr(model.config.neuron_config, "logical_nc_config", None),
        "version": version(),
    }


def serve(request: Request, emit: Emit, exchange: Any) -> None:
    emit("phase", name="load")
    model = open_model(request)
    path = Path(__file__).with_name("session.py")
    session: dict[str, Any] = {"__name__": "neuron_artifacts_session"}
    exec(compile(path.read_bytes(), str(path), "exec"), session)  # noqa: S102 - our own
    graphs = [(graph.tag, graph.bucket) for graph in list_graphs(model)]
    session["serve"](model, request["output"], graphs, emit, exchange)
