"""What a lookup found in one cache repository, and how that reads as data. Pure.

The four outcomes: ``hit``; ``near``, the architecture is there in another configuration;
``other-release``, another optimum-neuron release compiled it with the same compiler, so that its
graphs are probably reusable; ``miss``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from neuron_artifacts.neuron_cache import match
from neuron_artifacts.neuron_cache.match import CacheRequest, Difference, Subject
from neuron_artifacts.neuron_cache.registry import Entry, Kind, version_key

Status = Literal["hit", "near", "other-release", "miss", "error"]

_NOT_SHAPE = frozenset({
    "input_names", "output_names", "compiler_type", "compiler_version", "checkpoint_id",
    "checkpoint_revision", "optimum_neuron_version", "neuronxcc_version", "model_type",
})  # fmt: skip
"""Fields of a traced entry that a row gives under other names, or that no user asks for."""

SHAPE = ("batch_size", "sequence_length", "tp_degree", "dtype", "target")
"""What people tell decoders' rows apart by."""
_TRACED = ("auto_cast", "auto_cast_type", "instance_type", "tensor_parallel_size")


@dataclass(frozen=True)
class Row:
    """One cached configuration, with every model it was compiled from.

    ``module`` names the folder of a traced entry's graphs, ``proved`` says whether it exists
    (``None``: not checked, or a decoder's, whose folders only a trace can name).
    """

    kind: Kind
    task: str | None
    shape: Mapping[str, Any]
    model_ids: tuple[str, ...]
    revisions: tuple[str, ...]
    release: str
    compiler: str
    module: str | None = None
    proved: bool | None = None

    def summary(self) -> str:
        """The configuration in one line, under the row's own names."""
        if self.kind == "decoder":
            shape = {name: self.shape.get(name) for name in SHAPE}
        else:
            shape = {n: v for n, v in self.shape.items() if n.startswith("static_") or n in _TRACED}
        return " ".join(f"{name}={value}" for name, value in shape.items())

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        body = {
            **self.shape,
            "task": self.task,
            "model_ids": list(self.model_ids),
            "revisions": list(self.revisions),
            "optimum_neuron_version": self.release,
            "neuronxcc_version": self.compiler,
        }
        if self.module:
            body |= {"module": self.module, "proved": self.proved}
        return body


@dataclass(frozen=True)
class Near:
    """A row that is not what was asked, and in what."""

    row: Row
    differences: tuple[Difference, ...]

    def summary(self) -> str:
        """The row and what differs, in one line."""
        told = ", ".join(f"{d.field} {d.cached} instead of {d.asked}" for d in self.differences)
        return f"{self.row.summary()}, release {self.row.release}: {told or 'as asked'}"

    def document(self) -> dict[str, Any]:
        rows = [{"field": d.field, "asked": d.asked, "cached": d.cached} for d in self.differences]
        return {**self.row.document(), "differences": rows}


@dataclass(frozen=True)
class Nearest:
    """What comes closest: the smallest that suffices, the closest of the rest, and further off."""

    sufficient: Near | None = None
    below: Near | None = None
    other_target: tuple[Near, ...] = ()
    other_release: tuple[Near, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "sufficient": self.sufficient and self.sufficient.document(),
            "below": self.below and self.below.document(),
            "other_target": [near.document() for near in self.other_target],
            "other_release": [near.document() for near in self.other_release],
        }


@dataclass(frozen=True)
class Skipped:
    """A file of the registry that could not be read as an entry."""

    path: str
    reason: str


@dataclass(frozen=True)
class SourceOutcome:
    """The answer of one cache repository.

    ``release`` and ``compilers`` are what counted as usable; ``age`` is the number of seconds
    since the hub was last asked, where the answer comes from what was kept then.
    """

    source: str
    status: Status
    rows: tuple[Row, ...] = ()
    nearest: Nearest = field(default_factory=Nearest)
    release: str | None = None
    compilers: tuple[str, ...] = ()
    commit: str | None = None
    age: float | None = None
    skipped: tuple[Skipped, ...] = ()
    requests: int = 0
    error: str | None = None

    def every_row(self) -> Iterator[Row]:
        """Rows that answer, then those that come near."""
        near = self.nearest
        yield from self.rows
        singles = [one for one in (near.sufficient, near.below) if one]
        yield from (n.row for n in (*singles, *near.other_target, *near.other_release))

    def model_ids(self) -> frozenset[str]:
        """The models that any of the rows was compiled from."""
        return frozenset(name for row in self.every_row() for name in row.model_ids)

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "source": self.source,
            "status": self.status,
            "rows": [row.document() for row in self.rows],
            "nearest": self.nearest.document(),
            "release": self.release,
            "compilers": list(self.compilers),
            "commit": self.commit,
            "age_seconds": self.age,
            "skipped": [vars(skipped) for skipped in self.skipped],
            "requests": self.requests,
            "error": self.error,
        }


@dataclass(frozen=True)
class Judgement:
    """What the entries of one repository amount to."""

    status: Status
    rows: tuple[Row, ...]
    nearest: Nearest


def judge(
    request: CacheRequest, subject: Subject, usable: Iterable[Entry], other: Iterable[Entry] = ()
) -> Judgement:
    """Sort entries of the model's architecture into an outcome.

    ``usable`` are those of the release that counts, ``other`` those of other releases with the
    same compiler.
    """
    wanted = request.wanted()
    mine = match.pick_by_task(subject, [e for e in usable if match.is_same_model(subject, e)])
    exact = [entry for entry in mine if not match.differences(wanted, entry)]
    if exact:
        return Judgement("hit", merge_rows(exact), Nearest())
    theirs = match.pick_by_task(subject, [e for e in other if match.is_same_model(subject, e)])
    nearest = _find_nearest(wanted, mine, theirs)
    if mine:
        return Judgement("near", (), nearest)
    return Judgement("other-release" if theirs else "miss", (), nearest)


def merge_rows(entries: Iterable[Entry]) -> tuple[Row, ...]:
    """One row for each configuration, however many models and revisions it was compiled from."""
    merged: dict[Any, Row] = {}
    for entry in sorted(entries, key=_order):
        row = _row(entry)
        key = _identity(row)
        if known := merged.get(key):
            ids = tuple(dict.fromkeys((*known.model_ids, *row.model_ids)))
            revisions = tuple(dict.fromkeys((*known.revisions, *row.revisions)))
            row = replace(known, model_ids=ids, revisions=revisions)
        merged[key] = row
    return tuple(merged.values())


def _find_nearest(
    wanted: Mapping[str, Any], mine: Sequence[Entry], theirs: Sequence[Entry]
) -> Nearest:
    target = wanted.get("target")
    here = [entry for entry in mine if target in (None, entry.target)]
    sufficient = [entry for entry in here if match.is_sufficient(wanted, entry)]
    below = [entry for entry in here if not match.is_sufficient(wanted, entry)]
    exact = [entry for entry in theirs if not match.differences(wanted, entry)]
    return Nearest(
        sufficient=next(iter(_nearest_rows(wanted, sufficient)), None),
        below=next(iter(_nearest_rows(wanted, below)), None),
        other_target=_nearest_rows(wanted, [e for e in mine if target not in (None, e.target)]),
        other_release=_nearest_rows(wanted, exact or theirs),
    )


def _nearest_rows(wanted: Mapping[str, Any], entries: Sequence[Entry]) -> tuple[Near, ...]:
    """Rows with their differences: what suffices first, smallest first, then the closest."""
    fields = {name: value for name, value in wanted.items() if name != "target"}

    def order(entry: Entry) -> Any:
        enough = match.is_sufficient(fields, entry)
        rank = match.size(entry) if enough else match.distance(fields, entry)
        newest_first = tuple(-number for number in version_key(entry.at.release)[0])
        return not enough, rank, newest_first, _order(entry)

    ranked = sorted(entries, key=order)
    groups: dict[Any, list[Entry]] = {}
    for entry in ranked:
        groups.setdefault(_identity(_row(entry)), []).append(entry)
    return tuple(
        Near(merge_rows(group)[0], match.differences(wanted, group[0])) for group in groups.values()
    )


def _row(entry: Entry) -> Row:
    decodes = entry.kind in ("decoder", "training")
    return Row(
        kind=entry.kind, task=entry.task, model_ids=entry.model_ids,
        shape=_decoder_shape(entry) if decodes else _traced_shape(entry),
        revisions=(entry.revision,) if entry.revision else (),
        release=entry.at.release, compiler=entry.at.compiler,
        module=None if decodes else f"MODULE_{entry.at.name}",
    )  # fmt: skip


def _decoder_shape(entry: Entry) -> dict[str, Any]:
    shape = {
        "batch_size": entry.batch_size,
        "sequence_length": entry.sequence_length,
        "tp_degree": entry.tp_degree,
        "dtype": entry.dtype,
        "target": entry.target,
    }
    told = {n: entry.neuron[n] for n in _MODES if n in entry.neuron}
    return {**shape, **told}


_MODES = (
    "continuous_batching", "speculation_length", "on_device_sampling", "fused_qkv",
    "max_context_length", "prefill_chunk_size", "max_num_images", "image_size", "image_seq_len",
)  # fmt: skip
_SEPARATES = (
    "batch_size", "sequence_length", "tp_degree", "dtype", "target", "continuous_batching",
    "speculation_length", "prefill_chunk_size", "max_num_images", "image_size", "image_seq_len",
)  # fmt: skip
"""Rows that agree in these are one: the rest follows from the model's class."""


def _traced_shape(entry: Entry) -> dict[str, Any]:
    return {n: v for n, v in sorted(entry.neuron.items()) if n not in _NOT_SHAPE and n != "task"}


def _identity(row: Row) -> Any:
    """What two entries of one row have in common."""
    shape = row.shape
    if row.kind == "decoder":
        shape = {name: row.shape.get(name) or None for name in _SEPARATES}
    return row.kind, row.task, row.release, row.compiler, _frozen(shape)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, _frozen(item)) for name, item in sorted(value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _order(entry: Entry) -> Any:
    return (
        entry.tp_degree or 0, entry.batch_size or 0, entry.sequence_length or 0,
        entry.dtype or "", entry.target, entry.task or "", entry.at.path,
    )  # fmt: skip
