"""``entrypoints/llm.py``: LLM; constructing it starts the engine, which loads or compiles."""

from __future__ import annotations

from vllm.loading import load_model


class LLM:
    def __init__(self, model, **options):
        self.options = {"model": model, **options}
        self.engine = load_model(self.options)
