"""What a line of a vLLM server's output means for the artifact it serves. Pure decisions.

The texts are those of the loaders: ``neuronx_distributed.py`` of upstreaming-to-vllm (all
branches), ``neuronx_distributed_model_loader.py`` of vllm-neuron 0.2 to 0.5, ``cache.py`` and
``backend.py`` of vllm-neuron's compiler, ``model_loader.py`` of optimum-neuron; of neuronx-
distributed's ``model_builder.py``, which all NxD Inference compiles go through; and of uvicorn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["ready", "loaded", "recompiling", "error"]

_LONGEST = 300

_RULES: tuple[tuple[Kind, str], ...] = (
    ("recompiling", r"Unable to find precompiled artifacts from "),
    ("recompiling", r"Failed to load the model from .{0,4096}?Recompiling"),
    ("recompiling", r"local compile cache miss for key"),
    ("recompiling", r"Local cache miss for key:"),
    ("recompiling", r"Generating HLOs for the following models"),
    ("recompiling", r"Starting compilation for (?:the priority HLO|all HLOs)"),
    ("recompiling", r"is not a neuron model: it will be exported using cached artifacts"),
    ("recompiling", r"The model will be exported on the fly"),
    ("loaded", r"Successfully loaded pre-?compiled model artifacts"),
    ("ready", r"Application startup complete"),
    ("error", r"^(?:\([^)]*\) )?(?:ERROR .*\] )?(?:\w+\.)*[A-Z]\w*(?:Error|Exception)\b:?"),
)


@dataclass(frozen=True)
class LogEvent:
    """What happened, and the line that says so."""

    kind: Kind
    line: str


def read_line(line: str) -> LogEvent | None:
    """The event a line of output stands for, if any."""
    text = line.rstrip()
    for kind, pattern in _RULES:
        if re.search(pattern, text):
            return LogEvent(kind, " ".join(text.split())[:_LONGEST])
    return None
