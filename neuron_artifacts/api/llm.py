"""vLLM's offline front over the artifact that a model and its options lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuron_artifacts.api import compile as compile_model
from neuron_artifacts.runtime.defaults import read_defaults
from neuron_artifacts.runtime.llm import LLM as _LLM
from neuron_artifacts.runtime.loader import load_artifact
from neuron_artifacts.runtime.params import SamplingParams


class LLM(_LLM):
    """vLLM's offline front: compiles ``model`` if no artifact of it exists, then loads it.

    Takes vLLM's spellings (``tensor_parallel_size``, ``max_num_seqs``, ``max_model_len``,
    ``dtype``) as well as NxD Inference's. ``device`` and ``block_size``, which vLLM's Neuron
    examples pass, have no counterpart here and are accepted for them alone.
    """

    def __init__(
        self, model: str | Path, *, threads: int | None = None, device: str | None = None,
        block_size: int | None = None, **options: Any,
    ) -> None:  # fmt: skip
        del device, block_size
        outcome = compile_model(model, **options)
        loaded = load_artifact(outcome.path, threads=threads, warm_up=False)
        defaults = SamplingParams(**read_defaults(loaded.generation_config))
        super().__init__(loaded.runner, loaded.tokenizer, default_sampling_params=defaults)
