"""Preflight for NxD Inference: what would fail after an hour, said in a second, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from neuron_artifacts.backends.findings import Finding, order
from neuron_artifacts.backends.nxdi.levels import SdkLevel
from neuron_artifacts.backends.nxdi.neuron_config import WRONG_VALUES
from neuron_artifacts.backends.nxdi.preflight.adapters import check_adapters
from neuron_artifacts.backends.nxdi.preflight.attributes import (
    check_attributes,
    check_chunks,
    check_window,
)
from neuron_artifacts.backends.nxdi.preflight.buckets import check_buckets, check_lengths
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.constructor import check_constructor
from neuron_artifacts.backends.nxdi.preflight.cores import check_cores, check_heads
from neuron_artifacts.backends.nxdi.preflight.memory import check_core_memory, check_host
from neuron_artifacts.backends.nxdi.preflight.nodes import check_nodes
from neuron_artifacts.backends.nxdi.preflight.quantization import check_dtypes, check_quantization
from neuron_artifacts.backends.nxdi.preflight.speculation import check_eagle, check_speculation
from neuron_artifacts.backends.nxdi.preflight.subject import Resources, Subject
from neuron_artifacts.backends.nxdi.preflight.values import check_values
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.toolchain.platforms import Platform

__all__ = ["Resources", "examine"]

Check = Callable[[Subject], Iterator[Finding]]

_CHECKS: tuple[Check, ...] = (
    check_constructor, check_attributes, check_window, check_chunks, check_cores, check_heads,
    check_nodes, check_core_memory, check_host, check_buckets, check_lengths, check_speculation,
    check_eagle, check_adapters, check_quantization, check_dtypes,
)  # fmt: skip


def examine(
    model: ModelSnapshot,
    neuron_config: Mapping[str, Any],
    *,
    raw: Mapping[str, Any],
    level: SdkLevel | None,
    platform: Platform,
    draft: ModelSnapshot | None = None,
    environ: Mapping[str, str] | None = None,
    resources: Resources | None = None,
) -> tuple[Finding, ...]:
    """Everything that would fail, may fail or is good to know, worst first.

    Parameters
    ----------
    model, draft:
        Their headers are enough; no weight is read. Without headers memory is not examined.
    neuron_config:
        Every field, as :func:`~.neuron_config.fill_in_neuron_config` gives them: broken rules
        are found here, so they must not have been refused before.
    raw:
        The arguments NeuronConfig is constructed with.
    level:
        The SDK level, or None where the toolchain's is not known here.
    resources:
        Of the machine that compiles; None examines neither its memory nor its disk.
    """
    subject = Subject(
        model=model, fields=neuron_config, asked=raw, level=level, platform=platform,
        draft=draft, environ={} if environ is None else environ, resources=resources,
    )  # fmt: skip
    if unusable := tuple(check_values(subject)):
        # Sums over them would be of no use, and may be of any size.
        return order((*unusable, *_run(check_constructor, subject)))
    return order(found for check in _CHECKS for found in _run(check, subject))


def _run(check: Check, subject: Subject) -> Iterator[Finding]:
    """A value that cannot be computed with is a finding too, whichever check meets it first."""
    try:
        yield from check(subject)
    except WRONG_VALUES as error:
        if subject.level is None:
            yield finding("level-unknown", f"{check.__name__} knows no such NeuronConfig: {error}")
        else:
            yield finding("value-unusable", f"a NeuronConfig field has an unusable value: {error}")
