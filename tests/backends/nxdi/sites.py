"""A place where the nxdi worker is driven: the library's double, a checkpoint and an output."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import neuron_artifacts.backends.nxdi
from neuron_artifacts.worker import WorkerEvent, WorkerProcess, open_worker, run_worker
from tests.backends.checkpoints import write_checkpoint

WORKER = Path(neuron_artifacts.backends.nxdi.__file__).with_name("worker.py")
FIELDS = {
    "tp_degree": 2, "seq_len": 32, "batch_size": 3, "ctx_batch_size": 1, "enable_bucketing": True,
    "is_continuous_batching": True, "context_encoding_buckets": [8, 16],
    "token_generation_buckets": [16, 32], "max_context_length": 16, "torch_dtype": "bfloat16",
    "save_sharded_checkpoint": True,
}  # fmt: skip
GRAPHS = [
    ("context_encoding_model", 8), ("context_encoding_model", 16),
    ("token_generation_model", 16), ("token_generation_model", 32),
]  # fmt: skip


def write_model(folder: Path, *, weight: float = 1.0, **config: object) -> Path:
    write_checkpoint(folder, **config)
    save_file({"weight": np.full(4, weight, np.float32)}, folder / "model.safetensors")
    return folder


class Site:
    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.output = folder / "output"
        self.model = write_model(folder / "model")
        self.log = folder / "compiles"
        self.events: list[WorkerEvent] = []

    def environ(self, knobs: str = "", **environ: str) -> dict[str, str]:
        double = {"NEURON_DOUBLE": knobs, "NEURON_DOUBLE_LOG": str(self.log)}
        return {**os.environ, **double, **environ}

    def request(self, action: str, fields: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        return {
            "action": action, "model": str(self.model), "output": str(self.output),
            "neuron_config": {**FIELDS, **fields}, **rest,
        }  # fmt: skip

    def run(self, action: str, knobs: str = "", **fields: Any) -> Mapping[str, Any]:
        """``fields`` are NeuronConfig's; ``environ`` and ``more`` belong to the request."""
        environ = self.environ(knobs, **fields.pop("environ", {}))
        request = self.request(action, **{"fields": fields, **fields.pop("more", {})})
        return run_worker(
            self.python, WORKER, request, directory=self.folder / "job", environ=environ,
            observe=self.events.append,
        )  # fmt: skip

    def serve(self, knobs: str = "cores=2") -> WorkerProcess:
        request = {"action": "serve", "model": str(self.output), "output": str(self.output)}
        return open_worker(
            self.python, WORKER, request, directory=self.folder / "serve",
            environ=self.environ(knobs),
        )  # fmt: skip

    def compiles(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def files(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file()
        )

    def saved(self) -> dict[str, Any]:
        """As Python reads it: it contains ``Infinity``, which is not JSON."""
        content: dict[str, Any] = json.loads((self.output / "neuron_config.json").read_text())
        return content

    def graph_events(self, state: str) -> list[tuple[str, int]]:
        return [
            (event.fields["phase"], event.fields["bucket"])
            for event in self.events
            if event.name == "graph" and event.fields["state"] == state
        ]
