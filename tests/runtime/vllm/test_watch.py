"""Lines of real servers, and what they mean."""

from __future__ import annotations

import pytest

from neuron_artifacts.runtime.vllm.watch import read_line

PREFIX = "(EngineCore_0 pid=4711) WARNING 07-22 10:00:00 [neuronx_distributed_model_loader.py:194] "


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"{PREFIX}Unable to find precompiled artifacts from /a/b. Recompiling...", "recompiling"),
        (
            "WARNING 05-01 [x.py:253] Failed to load the model from /a. Recompiling...",
            "recompiling",
        ),
        ("WARNING [x.py:170] Failed to load the model from /a, Recompiling...", "recompiling"),
        ("Failed to load the model from None Recompiling...", "recompiling"),
        ("INFO:Neuron:Generating HLOs for the following models: ['context']", "recompiling"),
        ("INFO:Neuron:Starting compilation for the priority HLO", "recompiling"),
        ("INFO:Neuron:Starting compilation for all HLOs", "recompiling"),
        ("INFO [cache.py:96] Local cache miss for key: 0123456789abcdef", "recompiling"),
        (
            "RuntimeError: VLLM_NEURON_DISABLE_WARMUP_COMPILE: local compile cache miss for key 01",
            "recompiling",
        ),
        (
            "WARNING m is not a neuron model: it will be exported using cached artifacts.",
            "recompiling",
        ),
        ("The model will be exported on the fly, which may take some time.", "recompiling"),
        ("INFO Successfully loaded precompiled model artifacts from /a", "loaded"),
        ("INFO Successfully loaded pre-compiled model artifacts from /a", "loaded"),
        ("INFO:     Application startup complete.", "ready"),
        ("OSError: [Errno 98] Address already in use", "error"),
        ("safetensors_rust.SafetensorError: Error while deserializing header", "error"),
        ("(EngineCore_0 pid=7) ERROR 07-22 10:00:00 [core.py:700] ValueError: no", "error"),
        ("ERROR 07-22 10:00:00 [core.py:700] EngineCore failed to start.", None),
        ("INFO:     Started server process [12345]", None),
        ("INFO [cache.py:90] Local cache hit for key: 0123456789abcdef", None),
        ("INFO:Neuron:Done Sharding weights in 3.2", None),
        ("WARNING Using pre-compiled artifacts, override_neuron_config will be ignored", None),
        ("", None),
    ],
)
def test_lines(line: str, kind: str | None) -> None:
    event = read_line(line + "\n")
    assert (event.kind if event else None) == kind
    assert event is None or event.line in " ".join(line.split())
