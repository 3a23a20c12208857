"""Which entries answer a request, and how far the others are from it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuron_artifacts.neuron_cache.architecture import (
    infer_task,
    same_architecture,
    same_pipeline,
)
from neuron_artifacts.neuron_cache.registry import Entry, normalise_dtype, normalise_target

_SYNONYMS = {
    "embed": "feature-extraction", "default": "feature-extraction",
    "sentence-similarity": "feature-extraction", "mask-generation": "feature-extraction",
    "image-feature-extraction": "feature-extraction", "pretraining": "feature-extraction",
    "generate": "text-generation", "causal-lm": "text-generation",
    "conversational": "text-generation", "masked-lm": "fill-mask",
    "sequence-classification": "text-classification",
    "zero-shot-classification": "text-classification",
    "seq2seq-lm": "text2text-generation", "summarization": "text2text-generation",
    "translation": "text2text-generation", "audio-ctc": "automatic-speech-recognition",
    "speech2seq-lm": "automatic-speech-recognition", "vision2seq-lm": "image-to-text",
    "text-to-speech": "text-to-audio",
}  # fmt: skip
"""vLLM's words, and those that optimum takes for others (``TasksManager.map_from_synonym``)."""


@dataclass(frozen=True)
class CacheRequest:
    """The Neuron configuration that is wanted; ``None`` asks for nothing in particular.

    ``target`` is an instance family or a compilation target (inf2, trn1, trn1n, trn2), ``dtype``
    any name of a number format. ``other`` holds further fields by the names entries give them; a
    traced entry's ``static_`` may be left off.
    """

    batch_size: int | None = None
    sequence_length: int | None = None
    tp_degree: int | None = None
    dtype: str | None = None
    target: str | None = None
    continuous_batching: bool | None = None
    speculation_length: int | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    def wanted(self) -> dict[str, Any]:
        """The fields that are asked for, normalised."""
        named = {
            "target": normalise_target(self.target) if self.target else None,
            "dtype": None if self.dtype == "auto" else normalise_dtype(self.dtype),
            "tp_degree": self.tp_degree,
            "batch_size": self.batch_size,
            "sequence_length": self.sequence_length,
            "continuous_batching": self.continuous_batching,
            "speculation_length": self.speculation_length,
        }
        return {n: v for n, v in {**named, **self.other}.items() if v is not None}


@dataclass(frozen=True)
class Subject:
    """The model that is looked up.

    ``config`` is its config.json, or for a pipeline the config of each component by its name;
    ``task`` is what was asked for, ``pipeline_tag`` what the hub says.
    """

    config: Mapping[str, Any]
    model_id: str | None = None
    task: str | None = None
    pipeline_tag: str | None = None


@dataclass(frozen=True)
class Difference:
    """One field in which an entry is not what was asked."""

    field: str
    asked: Any
    cached: Any


def is_same_model(subject: Subject, entry: Entry) -> bool:
    """Whether the entry's graphs run the model, whatever their configuration and task."""
    # Where weights are inside the graphs, it is this checkpoint or none.
    inlined = entry.neuron.get("inline_weights_to_neff") is True
    if inlined and subject.model_id not in entry.model_ids:
        return False
    return is_same_architecture(subject, entry)


def is_same_architecture(subject: Subject, entry: Entry) -> bool:
    """Whether the entry was compiled for the model's architecture."""
    if entry.kind == "training":
        return False
    if entry.kind == "pipeline":
        return same_pipeline(subject.config, entry.configs)
    return same_architecture(subject.config, entry.configs[""], task=entry.task)


def pick_by_task(subject: Subject, entries: Sequence[Entry]) -> list[Entry]:
    """The entries for the task: the one asked for, else the one the model is known to have.

    An entry that names none is for any. An encoder's class says little about what it is exported
    for, so where no entry has the expected task, and none was asked for, those of every task are
    taken.
    """
    if subject.task:
        wanted = _canonical_task(subject.task)
        return [
            e for e in entries if e.kind == "pipeline" or _canonical_task(e.task) in (None, wanted)
        ]
    for expected in (subject.pipeline_tag, infer_task(subject.config)):
        wanted = _canonical_task(expected)
        fitting = [e for e in entries if _canonical_task(e.task) in (None, wanted)]
        if expected and fitting:
            return fitting
    decodes = infer_task(subject.config) == "text-generation"
    return [e for e in entries if not (decodes and e.kind == "decoder")]


def is_task_open(subject: Subject, entries: Sequence[Entry]) -> bool:
    """Whether only the hub can tell which of these entries are for the model's own task."""
    if subject.task or subject.pipeline_tag or not entries:
        return False
    tasks = {_canonical_task(entry.task) for entry in entries if entry.kind != "pipeline"}
    return bool(tasks) and tasks != {_canonical_task(infer_task(subject.config))}


def differences(wanted: Mapping[str, Any], entry: Entry) -> tuple[Difference, ...]:
    """The asked fields in which an entry differs, under the entry's own names."""
    found = []
    for name, asked in wanted.items():
        shown, cached = _cached(entry, name)
        if cached != asked:
            found.append(Difference(shown, asked, cached))
    return tuple(found)


def is_sufficient(wanted: Mapping[str, Any], entry: Entry) -> bool:
    """Whether the entry serves the request by being larger: more sequences or longer ones only."""
    for name, asked in wanted.items():
        cached = _cached(entry, name)[1]
        if cached == asked:
            continue
        if name == "batch_size" and entry.neuron.get("dynamic_batch_size") is True:
            continue
        if name not in ("batch_size", "sequence_length") or cached is None or cached < asked:
            return False
    return True


def size(entry: Entry) -> tuple[int, int, int]:
    """What an entry costs to hold: positions over all sequences, then sequences, then cores."""
    batch, length = entry.batch_size or 1, entry.sequence_length or 1
    return batch * length, batch, entry.tp_degree or 1


def distance(wanted: Mapping[str, Any], entry: Entry) -> tuple[int, float, int]:
    """How far an entry is: other kinds of graph first, then the shortfall in sizes, in octaves."""
    kinds, octaves = 0, 0.0
    for name, asked in wanted.items():
        cached = _cached(entry, name)[1]
        if cached == asked:
            continue
        if name in ("batch_size", "sequence_length") and cached:
            octaves += abs(math.log2(cached / asked))
        else:
            kinds += 1
    return kinds, octaves, -size(entry)[0]


def _cached(entry: Entry, name: str) -> tuple[str, Any]:
    """An entry's own name for a field, and its value, comparable with a request's."""
    neuron = entry.neuron
    if name == "target":
        return ("instance_type" if entry.kind in ("traced", "pipeline") else name), entry.target
    if name == "dtype":
        return ("dtype" if entry.kind == "decoder" else "float_dtype"), entry.dtype
    if name == "tp_degree":
        return ("tp_degree" if entry.kind == "decoder" else "tensor_parallel_size"), entry.tp_degree
    if name == "speculation_length":
        return name, neuron.get(name) or 0
    if name == "continuous_batching":
        return name, bool(neuron.get(name))
    for spelled in (name, f"static_{name}"):
        if spelled in neuron:
            return spelled, neuron[spelled]
    return name, None


def _canonical_task(task: str | None) -> str | None:
    plain = task and task.removesuffix("-with-past")
    return _SYNONYMS.get(plain or "", plain)
