"""Cores: whether there are enough, and what happens to heads that do not divide over them."""

from __future__ import annotations

from collections.abc import Iterator

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.heads import attention_degrees, lay_heads
from neuron_artifacts.backends.nxdi.preflight.subject import Shape, Subject
from neuron_artifacts.toolchain.platforms import instances_of


def check_cores(subject: Subject) -> Iterator[Finding]:
    """The ranks of this host against the largest machine of the target."""
    lnc, ranks = subject.platform.logical_nc_config, subject.fields["local_ranks_size"]
    target = subject.platform.target
    largest = max(instances_of(target), key=lambda instance: instance.logical_cores(lnc))
    most = largest.logical_cores(lnc)
    if ranks > most:
        yield finding(
            "cores",
            f"tp_degree {subject.fields['tp_degree']} takes {ranks} cores on one host, and the "
            f"largest machine for {target}, {largest.name}, has {most} (logical_nc_config {lnc})",
            hint=f"lower --tp-degree to {most} or less, or spread it over several nodes with "
            "local_ranks_size",
        )
    yield from _check_world(subject)
    yield from _check_experts(subject)
    asked = subject.asked.get("logical_nc_config", subject.asked.get("logical_neuron_cores"))
    if asked not in (None, -1, lnc):
        yield finding(
            "logical-cores", f"logical_nc_config {asked} was asked for, and {lnc} is compiled for",
            hint=f"set NEURON_LOGICAL_NC_CONFIG={asked}",
        )  # fmt: skip


def check_heads(subject: Subject) -> Iterator[Finding]:
    """What NxD Inference does with heads that do not divide, for the target and the draft."""
    if subject.shape is None:
        yield finding("sizes-unknown", "config.json names no sizes of a text model")
        return
    yield from _heads(subject, subject.shape, "")
    if subject.draft_shape is not None:
        yield from _heads(subject, subject.draft_shape, "the draft's ")


def _check_world(subject: Subject) -> Iterator[Finding]:
    fields = subject.fields
    degrees = [subject.field(name, 1) for name in ("tp_degree", "pp_degree", "ep_degree")]
    product = degrees[0] * degrees[1] * degrees[2]
    if fields["world_size"] % product:
        yield finding(
            "world-size",
            f"world_size {fields['world_size']} is no multiple of tp_degree x pp_degree x "
            f"ep_degree = {' x '.join(map(str, degrees))} = {product}",
        )


def _check_experts(subject: Subject) -> Iterator[Finding]:
    """Source: ``qwen3-moe-tutorial.ipynb`` of aws-neuron-sdk."""
    tp, ep = subject.field("moe_tp_degree", 1), subject.field("moe_ep_degree", 1)
    whole = subject.fields["tp_degree"]
    if ep > 1 and tp * ep != whole:
        yield finding(
            "moe-degrees",
            f"moe_tp_degree {tp} x moe_ep_degree {ep} = {tp * ep}, and tp_degree is {whole}",
        )


def _heads(subject: Subject, shape: Shape, whose: str) -> Iterator[Finding]:
    for degree in attention_degrees(subject.fields):
        yield from _laid_heads(shape, degree, whose)
    yield from _flash_decoding(subject, shape, whose)


def _laid_heads(shape: Shape, degree: int, whose: str) -> Iterator[Finding]:
    layout = lay_heads(shape, degree)
    if layout.heads != shape.heads:
        yield finding(
            "heads-padded",
            f"{whose}{shape.heads} query heads do not divide over {degree} cores: they are "
            f"padded to {layout.heads}, and {layout.heads - shape.heads} compute nothing",
            hint=f"a tp_degree that divides {shape.heads} wastes nothing",
        )
    if shape.heads == shape.kv_heads or layout.kv_heads == shape.kv_heads:
        return
    copies = f"{whose}{shape.kv_heads} key-value heads become {layout.kv_heads}"
    if degree % shape.kv_heads == 0:
        yield finding(
            "kv-heads-replicated",
            f"{copies}, one a core: each is kept {degree // shape.kv_heads} times",
        )
    else:
        yield finding(
            "kv-heads-per-query",
            f"{copies}, one for each query head, because {degree} cores and {shape.kv_heads} "
            "heads do not divide",
            hint=f"a tp_degree that divides {shape.kv_heads}, or a multiple of it, takes less "
            "memory",
        )


def _flash_decoding(subject: Subject, shape: Shape, whose: str) -> Iterator[Finding]:
    if not subject.field("flash_decoding_enabled"):
        return
    cores = min(subject.fields["tp_degree"], shape.heads)
    if cores % shape.kv_heads:
        yield finding(
            "flash-decoding-heads",
            f"flash decoding shares each of {whose}{shape.kv_heads} key-value heads among the "
            f"same number of cores, and {cores} is no multiple",
        )
