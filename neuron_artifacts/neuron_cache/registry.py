"""The registry of a Neuron cache repository: where entries lie, and what one says.

Every layout optimum-neuron wrote from 0.0.18 to 0.4.5 and on its main branch, under
``neuronxcc-<compiler>/0_REGISTRY/<release>/`` (``cache/hub_cache.py``, before 0.2.0
``utils/hub_cache_utils.py``)::

    <model type>/<model id>/<hash>.json                         0.0.18; 0.2.0 to 0.4.4
    {inference,training}/<model type>/<model id>/<hash>.json    0.0.19 to 0.1.0
    <architecture digest>/<hash>.json                           from 0.4.5, beside aliases
    <model type>/<model id>/<hash>.json                         that list one entry of each model
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from neuron_artifacts._files import load_json_object

COMPILER_PREFIX = "neuronxcc-"
REGISTRY = "0_REGISTRY"
MODES = ("inference", "training")

Kind = Literal["decoder", "traced", "pipeline", "training"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True)
class EntryPath:
    """Where an entry lies; ``digest`` or ``model_type`` and ``model_id`` are known from it."""

    path: str
    compiler: str
    release: str
    training: bool
    digest: str | None
    model_type: str | None
    model_id: str | None

    @property
    def name(self) -> str:
        """The entry's own hash: the same file under an alias has the same name."""
        return self.path.rpartition("/")[2].removesuffix(".json")


@dataclass(frozen=True)
class Entry:
    """One compiled configuration of one architecture.

    ``configs`` holds the model's config under ``""``, or that of each component of a pipeline;
    ``neuron`` is the Neuron configuration as it was written. ``batch_size`` counts sequences,
    ``sequence_length`` tokens, ``tp_degree`` cores; ``None`` where a traced entry has no such axis.
    """

    at: EntryPath
    kind: Kind
    task: str | None
    model_ids: tuple[str, ...]
    revision: str | None
    configs: Mapping[str, Mapping[str, Any]]
    neuron: Mapping[str, Any]
    batch_size: int | None
    sequence_length: int | None
    tp_degree: int | None
    dtype: str | None
    target: str


def compiler_folder(path: str) -> str | None:
    """The compiler version a root folder belongs to."""
    version = path.removeprefix(COMPILER_PREFIX)
    return version if version != path and version and "/" not in version else None


def parse_path(path: str) -> EntryPath | None:
    """Read what a path says; ``None`` if no registry entry can lie there."""
    parts = path.split("/")
    compiler = compiler_folder(parts[0])
    if compiler is None or len(parts) < 5 or parts[1] != REGISTRY or not path.endswith(".json"):
        return None
    release, *rest, _ = parts[2:]
    mode = rest.pop(0) if rest[0] in MODES else "inference"
    if len(rest) == 1 and _DIGEST.fullmatch(rest[0]):
        return EntryPath(path, compiler, release, False, rest[0], None, None)
    if len(rest) < 2:
        return None
    training = mode == "training"
    return EntryPath(path, compiler, release, training, None, rest[0], "/".join(rest[1:]))


def parse_entry(at: EntryPath, data: bytes, aliases: tuple[str, ...] = ()) -> Entry:
    """Read an entry; ``aliases`` are models that other paths say it was made from.

    Raises
    ------
    ValueError
        Cut short, not JSON, or not an entry; the message says why.
    """
    document = load_json_object(data)
    told_id, told_task = document.pop("_model_id", None), document.pop("_task", None)
    document.pop("_entry_class", None)
    configs, neuron = _split(document)
    task = next((t for t in (told_task, neuron.get("task"), document.get("task")) if t), None)
    ids = (told_id, neuron.get("checkpoint_id"), at.model_id, *aliases)
    common: dict[str, Any] = {
        "at": at, "configs": configs, "neuron": neuron, "task": _text(task),
        "model_ids": tuple(dict.fromkeys(i for i in ids if isinstance(i, str) and i)),
        "revision": _text(neuron.get("checkpoint_revision")),
    }  # fmt: skip
    if at.training or "num_neuron_cores_per_node" in neuron:
        tp = _count(neuron, "tensor_parallel_size", optional=True)
        dtype = normalise_dtype(neuron.get("precision"))
        return Entry(
            kind="training", batch_size=None, sequence_length=None, tp_degree=tp, dtype=dtype,
            target="trn1", **common,
        )  # fmt: skip
    if len(configs) > 1 or "" not in configs or _is_traced(neuron):
        kind: Kind = "traced" if "" in configs else "pipeline"
        return Entry(kind=kind, **_traced_shape(neuron), **common)
    return Entry(kind="decoder", **_decoder_shape(neuron), **common)


def architecture_digest(entry: Entry) -> str | None:
    """The name of the folder that a single model's entry belongs into, from 0.4.5 on.

    SHA-256 of the JSON that ``arch_digest`` in ``cache/entries/single_model.py`` makes. ``None``
    for a pipeline, whose digest is taken over what its entry does not hold.
    """
    config = entry.configs.get("")
    if config is None:
        return None
    document = {"model_type": config["model_type"], "task": entry.task, "config": config}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _split(document: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The configs and the Neuron configuration of an entry."""
    neuron = document.pop("neuron", None)
    if isinstance(neuron, dict):
        if not isinstance(document.get("model_type"), str):
            raise ValueError("no model_type")
        return {"": document}, neuron
    components = {n: dict(c) for n, c in document.items() if isinstance(c, dict)}
    settings = {n: c.pop("neuron", None) for n, c in components.items()}
    # The component that costs most stands for all: its shapes are the pipeline's.
    leading = [n for n in ("unet", "transformer", "decoder", "encoder") if n in settings]
    for name in leading:
        if isinstance(found := settings[name], dict):
            return components, found
    raise ValueError("no Neuron configuration")


def _is_traced(neuron: Mapping[str, Any]) -> bool:
    return "dynamic_batch_size" in neuron or any(name.startswith("static_") for name in neuron)


_TP_NAMES = ("tp_degree", "num_cores", "tensor_parallel_size")


def _decoder_shape(neuron: Mapping[str, Any]) -> dict[str, Any]:
    tp = next((name for name in _TP_NAMES if name in neuron), _TP_NAMES[0])
    dtype = neuron.get("torch_dtype") or neuron.get("dtype") or neuron.get("auto_cast_type")
    return {
        "batch_size": _count(neuron, "batch_size"),
        "sequence_length": _count(neuron, "sequence_length"),
        "tp_degree": _count(neuron, tp),
        "dtype": normalise_dtype(dtype),
        "target": normalise_target(neuron.get("target")),
    }


def _traced_shape(neuron: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "batch_size": _count(neuron, "static_batch_size", optional=True),
        "sequence_length": _count(neuron, "static_sequence_length", optional=True),
        "tp_degree": _count(neuron, "tensor_parallel_size", optional=True) or 1,
        "dtype": normalise_dtype(neuron.get("float_dtype")),
        "target": normalise_target(neuron.get("instance_type")),
    }


def _count(neuron: Mapping[str, Any], name: str, *, optional: bool = False) -> int | None:
    value = neuron.get(name)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}" if name in neuron else f"no {name}")
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def normalise_target(name: Any) -> str:
    """The compilation target of an instance type (``utils/instance.py`` of optimum-neuron).

    Entries before 0.2.0 name none: that stack knew only the first generation of NeuronCores v2.
    """
    family = str(name or "trn1").lower().partition(".")[0]
    return {"inf2": "trn1", "trn1n": "trn1", "trn2u": "trn2", "trn2n": "trn2"}.get(family, family)


def normalise_dtype(name: Any) -> str | None:
    """PyTorch's name of a number format, whatever it is called by."""
    if not isinstance(name, str):
        return None
    short = name.lower().removeprefix("torch.")
    return {
        "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32",
        "float": "float32",
    }.get(short, short)  # fmt: skip


def version_key(version: str) -> tuple[tuple[int, ...], bool, tuple[int, ...], str]:
    """Orders releases and compilers; a development version comes before its release."""
    numbers = _VERSION.match(version)
    if not numbers:
        return (), False, (), version
    rest = version[numbers.end() :]
    parts = tuple(int(n) for n in numbers.group().split("."))
    built = tuple(int(n) for n in re.findall(r"\d{1,9}", rest))
    return parts, not is_development(version), built, rest


def is_development(release: str) -> bool:
    """Whether a registry folder belongs to no release of optimum-neuron."""
    numbers = _VERSION.match(release)
    rest = release[numbers.end() :] if numbers else release
    return numbers is None or bool(re.match(r"[.\-_]?(dev|a|b|rc|alpha|beta)", rest))


def covers(wanted: str, version: str) -> bool:
    """Whether ``version`` is ``wanted``, or that with more behind it: 2.21 covers 2.21.3+ab."""
    rest = version.removeprefix(wanted)
    return not wanted or not rest or (rest != version and rest[0] in ".+")
