"""The Hugging Face part of ``cache-lookup``: what Neuron cache repositories have for a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuron_artifacts.cli import _output
from neuron_artifacts.errors import ExitCode, UsageError
from neuron_artifacts.spec import CompileSpec

if TYPE_CHECKING:
    from neuron_artifacts.neuron_cache import (
        CacheRequest,
        Near,
        PreExported,
        Row,
        SourceOutcome,
    )

HINT = (
    "a decoder's row is a hint, not proof: which graphs it stands for only a trace can tell; "
    "a traced model's can be checked with --prove"
)
_SHOWN = 5
_SHAPE = ("batch_size", "sequence_length", "tp_degree", "dtype", "target")


@dataclass(frozen=True)
class HubLookup:
    """What the hub knows of a model: an outcome for each cache repository, in order."""

    request: CacheRequest
    sources: tuple[SourceOutcome, ...]
    pre_exported: PreExported | None

    @property
    def exit_code(self) -> int:
        found = any(source.status == "hit" for source in self.sources)
        return ExitCode.OK if found else ExitCode.MISS


def look_up_hub_cache(
    spec: CompileSpec,
    *,
    repos: Sequence[str] = (),
    release: str | None = None,
    compiler: str | None = None,
    task: str | None = None,
    offline: bool = False,
    prove: bool = False,
) -> HubLookup:
    """Look a model up in Neuron cache repositories.

    Options that nobody set ask for nothing, so that a bare model lists what exists.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, HubError
        The model or every cache repository cannot be read.
    """
    from neuron_artifacts.neuron_cache import (
        Hub,
        find_pre_exported,
        look_up,
        open_model,
        read_config,
    )

    hub = Hub(offline=offline)
    files = open_model(spec.model, hub, revision=spec.revision)
    model = read_config(files)
    request = request_of(spec)
    sources = look_up(
        model.config, request, repos=list(repos) or None, release=release, compiler=compiler,
        task=task, model_id=model.model_id, prove=prove, hub=hub,
    )  # fmt: skip
    # A model that entries were compiled from has weights: it needs no request to be told apart.
    compiled_from = any(model.model_id in source.model_ids() for source in sources)
    pre_exported = None if compiled_from else find_pre_exported(files, model.config)
    return HubLookup(request, tuple(sources), pre_exported)


def request_of(spec: CompileSpec) -> CacheRequest:
    """What a compile request asks of a cache: the options somebody set."""
    from neuron_artifacts.neuron_cache import CacheRequest

    asked = {n: getattr(spec, n) for n, o in spec.origins.items() if o != "default" and n in _NAMES}
    fields: dict[str, Any] = {_NAMES[name]: value for name, value in asked.items()}
    other = dict(spec.extra)
    if spec.max_context_length is not None:
        other["max_context_length"] = spec.max_context_length
    for name, kind in (("continuous_batching", bool), ("speculation_length", int)):
        value = other.pop(name, None)
        if value is not None and type(value) is not kind:
            raise UsageError(f"{name} must be {_KINDS[kind]}, got {value!r}")
        fields[name] = value
    shaped = any(value is not None for name, value in fields.items() if name != "target")
    if shaped and fields["speculation_length"] is None:
        fields["speculation_length"] = 0  # it changes the graphs, and no export has it unless told
    return CacheRequest(**fields, other=other)


_NAMES = {"batch_size": "batch_size", "seq_len": "sequence_length", "tp_degree": "tp_degree",
          "torch_dtype": "dtype", "target": "target"}  # fmt: skip
_KINDS = {bool: "true or false", int: "a whole number"}


def sources_json(found: HubLookup) -> dict[str, Any]:
    """The lookup as data: what was asked, and the answer of each source."""
    return {
        "requested": found.request.wanted(),
        "pre_exported": found.pre_exported and found.pre_exported.document(),
        "sources": [source.document() for source in found.sources],
    }


def render_sources(found: HubLookup) -> str:
    """The lookup as text."""
    asked = found.request.wanted()
    said = ", ".join(f"{name} {value}" for name, value in asked.items())
    blocks = [f"asked     {said or 'whatever there is'}"]
    if found.pre_exported:
        blocks.append(_pre_exported_text(found.pre_exported))
    blocks += [_source_text(source) for source in found.sources]
    if any(row.kind == "decoder" for source in found.sources for row in source.every_row()):
        blocks.append(f"note      {HINT}")
    return "\n\n".join(blocks)


def _source_text(source: SourceOutcome) -> str:
    from neuron_artifacts.neuron_cache.client import describe_age

    colour = {"hit": "green", "error": "red", "miss": "yellow"}.get(source.status, "cyan")
    lines = [
        f"source    {source.source}",
        f"verdict   {_output.styled(source.status, colour, stream=sys.stdout)}: {_reason(source)}",
    ]
    if source.release:
        compilers = ", ".join(source.compilers)
        lines.append(f"usable    optimum-neuron {source.release}, neuronx-cc {compilers}")
    if source.age is not None:
        lines.append(f"offline   as the hub was {describe_age(source.age)} ago")
    if source.rows:
        lines += ["", _rows_table(source.rows)]
    lines += _nearest_lines(source)
    if source.skipped:
        first = source.skipped[0]
        lines.append(
            f"skipped   {_count(source.skipped, 'file')}, the first {first.path}: {first.reason}"
        )
    return "\n".join(lines)


def _reason(source: SourceOutcome) -> str:
    if source.status == "error":
        return source.error or "it did not answer"
    if source.status == "hit":
        return _count(source.rows, "cached configuration")
    return {
        "near": "this architecture is cached in other configurations",
        "other-release": "only other releases have it; same compiler, so probably reusable",
    }.get(source.status, "nothing of this architecture is cached")


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _rows_table(rows: Sequence[Row]) -> str:
    """Decoders under one heading; a traced row by its own names, which differ from row to row."""
    shown = [
        (*(row.shape.get(name) for name in _SHAPE), row.task, row.release, _models(row.model_ids))
        for row in rows if row.kind == "decoder"
    ]  # fmt: skip
    parts = []
    if shown:
        parts.append(_output.table((*_SHAPE, "task", "release", "models"), shown))
    parts += [_traced_line(row) for row in rows if row.kind != "decoder"]
    return "\n".join(parts)


def _traced_line(row: Row) -> str:
    proof = {True: ", graphs present", False: ", graphs MISSING", None: ""}[row.proved]
    return f"{_shape_text(row)} ({row.task}, release {row.release}{proof}) {_models(row.model_ids)}"


def _nearest_lines(source: SourceOutcome) -> list[str]:
    nearest = source.nearest
    singles = (("larger", nearest.sufficient), ("closest", nearest.below))
    lines = [_near_line(name, near) for name, near in singles if near]
    groups = (("target", nearest.other_target), ("release", nearest.other_release))
    for name, rows in groups:
        lines += [_near_line(name, near) for near in rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            lines.append(f"          and {len(rows) - _SHOWN} more (--json shows all)")
    return ["", *lines] if lines else []


def _near_line(name: str, near: Near) -> str:
    told = ", ".join(f"{d.field} {d.cached} instead of {d.asked}" for d in near.differences)
    return f"{name:<10}{_shape_text(near.row)}, release {near.row.release}: {told or 'as asked'}"


def _shape_text(row: Row) -> str:
    shape: Mapping[str, Any] = row.shape
    if row.kind == "decoder":
        shape = {name: shape.get(name) for name in _SHAPE}
    else:
        shape = {n: v for n, v in shape.items() if n.startswith("static_") or n in _TRACED}
    return " ".join(f"{name}={value}" for name, value in shape.items())


_TRACED = ("auto_cast", "auto_cast_type", "instance_type", "tensor_parallel_size")


def _models(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def _pre_exported_text(found: PreExported) -> str:
    locks = [f"{k.package} {'' if k.exact else '>= '}{k.version}" for k in found.locks]
    missing = "" if found.complete is not False else ", but its graphs are missing"
    return (
        f"compiled  this repository holds a compiled model ({found.layout}){missing}; "
        f"it loads with {' and '.join(locks) or 'no version said'}"
    )
