"""Compile LLMs for AWS Neuron ahead of deployment, and serve exactly what was compiled.

::

    import neuron_artifacts

    outcome = neuron_artifacts.compile("org/model", batch_size=4, seq_len=2048)
    with neuron_artifacts.load(outcome.path) as llm:
        params = neuron_artifacts.SamplingParams(temperature=0.8, top_p=0.95, max_tokens=64)
        for output in llm.generate(["Hello, my name is"], params):
            print(output.outputs[0].text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuron_artifacts._lazy import importing
from neuron_artifacts._version import __version__

if TYPE_CHECKING:
    from neuron_artifacts.api import compile, load
    from neuron_artifacts.api.llm import LLM
    from neuron_artifacts.errors import NeuronArtifactsError
    from neuron_artifacts.runtime.outputs import CompletionOutput, RequestOutput
    from neuron_artifacts.runtime.params import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "NeuronArtifactsError",
    "RequestOutput",
    "SamplingParams",
    "__version__",
    "compile",
    "load",
]

_HOMES = {
    "LLM": "api.llm",
    "compile": "api",
    "load": "api",
    "NeuronArtifactsError": "errors",
    "CompletionOutput": "runtime.outputs",
    "RequestOutput": "runtime.outputs",
    "SamplingParams": "runtime.params",
}

# The command line starts without numpy, pydantic or the engine.
__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
