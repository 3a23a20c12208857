"""Memory of a core, of the host, and of the disk, with the arithmetic shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.footprint import (
    Cache,
    Weights,
    cache_of,
    weights_of,
    width,
)
from neuron_artifacts.backends.nxdi.preflight.subject import Shape, Subject
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.toolchain.platforms import Instance, instances_of

MARGIN = 0.1
"""What should stay free for what only the compiler knows: activations, spilled values, code."""


@dataclass(frozen=True)
class Footprint:
    """What a request takes, target and draft together, in bytes.

    ``weights``, ``cache`` and ``adapters`` are one core's; ``shards`` all of this host's.
    """

    weights: int
    cache: int
    adapters: int
    shards: int
    loaded: int
    arithmetic: tuple[str, ...]

    @property
    def per_core(self) -> int:
        return self.weights + self.cache + self.adapters


def footprint_of(subject: Subject) -> Footprint | None:
    """The footprint, or None where the sizes are not known."""
    shape, draft = subject.shape, subject.draft_shape
    if shape is None or not subject.model.tensors:
        return None
    parts = [_part(subject, subject.model, shape, "")]
    if draft is not None and subject.draft is not None and subject.draft.tensors:
        parts.append(_part(subject, subject.draft, draft, "draft "))
    adapters = _adapter_bytes(subject, shape)
    weights = sum(part.weights.per_core for part in parts)
    lines = [line for part in parts for line in part.arithmetic(subject.fields["tp_degree"])]
    if adapters:
        lines.append(f"adapters {show(adapters)}")
    return Footprint(
        weights=weights,
        cache=sum(part.cache.total for part in parts),
        adapters=adapters,
        shards=(weights + adapters) * subject.fields["local_ranks_size"],
        loaded=sum(part.weights.loaded for part in parts),
        arithmetic=tuple(lines),
    )


def check_core_memory(subject: Subject) -> Iterator[Finding]:
    """HBM of a core against weights and cache."""
    footprint = footprint_of(subject)
    if footprint is None:
        return
    have, need = subject.platform.hbm_per_core, footprint.per_core
    sums = " + ".join(footprint.arithmetic)
    message = f"a core of {subject.platform.target} has {show(have)}; {sums} = {show(need)}"
    if need > have:
        yield finding(
            "hbm", message, hint="raise --tp-degree, lower --batch-size or --seq-len, or quantise"
        )
    elif need > have * (1 - MARGIN):
        yield finding(
            "hbm-tight", f"{message}, and {show(have - need)} stay for activations and spills",
            hint="the compiler alone knows what it needs beside them",
        )  # fmt: skip
    else:
        yield finding("hbm-estimate", message)
    yield from _fitting(subject, footprint)


def _read_elsewhere(subject: Subject) -> list[str]:
    """What NxD Inference reads by the path that neuron_config.json has, if nothing is sharded."""
    lies = {
        "the quantised checkpoint": subject.field("quantized"),
        "the draft": subject.speculates,
        "the adapters": subject.field("lora_config") is not None,
    }
    return [name for name, is_there in lies.items() if is_there]


def check_host(subject: Subject) -> Iterator[Finding]:
    """Memory and disk of the machine that compiles and shards."""
    if not subject.field("save_sharded_checkpoint"):
        read = _read_elsewhere(subject)
        yield finding(
            "weights-beside",
            "the artifact carries the checkpoint, and it is sharded at every start"
            + (f"; under vLLM {' and '.join(read)} must lie where they are now" if read else ""),
            hint="save_sharded_checkpoint: true shards once, and needs nothing else",
        )
    elif subject.field("skip_sharding"):
        yield finding(
            "skip-sharding",
            "skip_sharding makes no shards, and with save_sharded_checkpoint loading reads them",
            hint="save_sharded_checkpoint: false, or no skip_sharding",
        )
    footprint = footprint_of(subject)
    if footprint is None or subject.resources is None:
        return
    yield from _host_memory(subject, footprint, subject.resources.memory)
    if subject.field("save_sharded_checkpoint"):
        yield from _disk(subject, footprint, subject.resources.disk)


@dataclass(frozen=True)
class _Part:
    whose: str
    weights: Weights
    cache: Cache

    def arithmetic(self, degree: int) -> tuple[str, str]:
        return (
            f"{self.whose}weights {show(self.weights.per_core)} "
            f"({show(self.weights.loaded)} over {degree})",
            f"{self.whose}cache {show(self.cache.total)} ({self.cache})",
        )


def _part(subject: Subject, model: ModelSnapshot, shape: Shape, whose: str) -> _Part:
    weights = weights_of(model.all_tensors.values(), shape, subject.fields)
    return _Part(whose, weights, cache_of(shape, subject.fields, subject.level))


def _adapter_bytes(subject: Subject, shape: Shape) -> int:
    """What LoRA takes of a core: both matrices of each module and layer, for every adapter.

    An upper bound: the matrices as wide as the widest, none divided.
    """
    config = subject.field("lora_config")
    if not isinstance(config, dict) or not config.get("target_modules"):
        return 0
    modules = len(config["target_modules"]) * shape.layers
    widest = max(shape.hidden_size, shape.heads * shape.head_dim)
    sharded = max(widest, shape.intermediate_size) // subject.fields["tp_degree"]
    elements = config["max_loras"] * config["max_lora_rank"] * (widest + sharded)
    return int(modules * elements * width(subject.fields["torch_dtype"]) // 8)


def _fitting(subject: Subject, footprint: Footprint) -> Iterator[Finding]:
    """Machines to serve it on; what they lack in memory of their own is said as well."""
    lnc, ranks = subject.platform.logical_nc_config, subject.fields["local_ranks_size"]
    if footprint.per_core > subject.platform.hbm_per_core:
        return
    enough = [i for i in instances_of(subject.platform.target) if i.logical_cores(lnc) >= ranks]
    if enough:
        yield finding("cores-fit", f"{ranks} cores and their memory: {_names(enough)}")
    small = [i for i in enough if i.host_memory < footprint.shards]
    if small:
        yield finding(
            "host-memory-serving",
            f"the shards of one host are {show(footprint.shards)}, and they are read into memory "
            f"before they go to the device: {_names(small)} have less",
        )


def _host_memory(subject: Subject, footprint: Footprint, have: int) -> Iterator[Finding]:
    """Sharding holds the whole checkpoint as it is cast, and a copy of one rank's part.

    Source: ``shard_weights_with_cache`` in ``trace/model_builder.py`` of neuronx-distributed: a
    shard is a view of the checkpoint until it is written.
    """
    need = footprint.loaded + footprint.weights
    if need <= have:
        return
    message = (
        f"sharding takes {show(footprint.loaded)} of weights and {show(footprint.weights)} of one "
        f"rank's, and this machine has {show(have)} of memory"
    )
    hint = "compile on a machine with more memory, or with skip_sharding"
    if _is_copied(subject):
        yield finding("host-memory", message, hint=hint)
    else:
        yield finding("host-memory-tight", f"{message}; the files are mapped, so it may be slow")


def _is_copied(subject: Subject) -> bool:
    """Whether loading makes new tensors: of another dtype than the files', or quantised."""
    if subject.field("quantized") or subject.draft is not None:
        return True
    wanted = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    stored = {info.dtype for info in subject.model.all_tensors.values() if len(info.shape) > 1}
    return stored != {wanted.get(str(subject.fields["torch_dtype"]))}


def _disk(subject: Subject, footprint: Footprint, have: int) -> Iterator[Finding]:
    parts = [f"{show(footprint.shards)} of shards"]
    need = footprint.shards
    path = subject.field("quantized_checkpoints_path")
    if subject.field("quantized") and path is not None and not Path(path).exists():
        need += footprint.loaded
        parts.append(f"{show(footprint.loaded)} of quantised checkpoint")
    message = f"{' and '.join(parts)} are written, and {show(have)} of disk are free"
    hint = "free space, or choose another file system with --store or --output"
    if need > have:
        yield finding("disk", message, hint=hint)
    elif need > have * (1 - MARGIN):
        yield finding("disk-tight", f"{message}; graphs and the compiler's files come on top",
                      hint=hint)  # fmt: skip


def _names(instances: list[Instance]) -> str:
    return ", ".join(instance.name for instance in instances)


def show(count: float) -> str:
    """A size for people: ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
