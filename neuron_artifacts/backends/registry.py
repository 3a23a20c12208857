"""Backends by name; each is imported when it is asked for."""

from __future__ import annotations

import importlib

from neuron_artifacts.backends.base import Backend
from neuron_artifacts.errors import IncompatibleError, UsageError

BACKENDS = {
    "cpu": "neuron_artifacts.backends.cpu.adapter:CpuBackend",
    "nxdi": "neuron_artifacts.backends.nxdi.adapter:NxdiBackend",
    "optimum": "neuron_artifacts.backends.optimum.adapter:OptimumBackend",
    "transformers-neuronx": (
        "neuron_artifacts.backends.transformers_neuronx.adapter:TransformersNeuronxBackend"
    ),
    "vllm-neuron": "neuron_artifacts.backends.vllm_neuron.adapter:VllmNeuronBackend",
}


def get_backend(name: str) -> Backend:
    """The backend called ``name``.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in BACKENDS:
        raise UsageError(
            f"unknown backend {name!r}", hint=f"this version has: {', '.join(sorted(BACKENDS))}"
        )
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend


def backend_of_artifact(name: str) -> Backend:
    """The backend an artifact was built with, or an error that says who could run it."""
    try:
        return get_backend(name)
    except UsageError as error:
        raise IncompatibleError(
            f"the artifact was built with backend {name!r}, which this version does not have",
            hint=error.hint,
        ) from None
