"""Model folders as open runners, each distinct graph compiled once a session."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts.backends.cpu.arch import Arch, parse_arch
from neuron_artifacts.backends.cpu.compiler import compile_graph, find_compiler
from neuron_artifacts.backends.cpu.convert import convert_file
from neuron_artifacts.backends.cpu.emit import emit
from neuron_artifacts.backends.cpu.lower import lower
from neuron_artifacts.backends.cpu.runner import CpuRunner
from neuron_artifacts.backends.cpu.targets import resolve_target
from neuron_artifacts.backends.cpu.weights import (
    check_tensors,
    choose_storage,
    plan_files,
)
from neuron_artifacts.model.safetensors_header import read_header

Graphs = dict[tuple[str, int], Path]


@dataclass(frozen=True)
class Shape:
    """The static side of a runner; one shape for many tests keeps the number of compiles low."""

    compute: str = "float32"
    context: tuple[int, ...] = (16, 64)
    token: tuple[int, ...] = (64, 128)
    batch_size: int = 4
    seq_len: int = 128
    threads: int = 1
    target: str = "native"

    @property
    def graphs(self) -> tuple[tuple[str, int], ...]:
        return (
            *(("context_encoding", bucket) for bucket in self.context),
            *(("token_generation", bucket) for bucket in self.token),
        )


class Workshop:
    """Compiles graphs and converts weights below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers = ThreadPoolExecutor(2)

    def close(self) -> None:
        self._workers.shutdown()

    @contextmanager
    def open(self, model: Path, shape: Shape) -> Iterator[CpuRunner]:
        """A fresh runner of the checkpoint in ``model``; its cache holds nothing."""
        arch = parse_arch(json.loads((model / "config.json").read_text(encoding="utf-8")))
        by_file = {path.name: read_header(path) for path in sorted(model.glob("*.safetensors"))}
        tensors = {name: info for file in by_file.values() for name, info in file.items()}
        check_tensors(arch, tensors)
        storage = choose_storage(tensors, shape.compute)
        runner = CpuRunner.open(
            graphs=self._graphs(arch, shape, storage),
            weights=self._weights(model, arch, by_file, shape.compute, storage),
            arch=arch,
            batch_size=shape.batch_size,
            seq_len=shape.seq_len,
            max_context_length=shape.seq_len,
            compute=shape.compute,
            threads=shape.threads,
        )
        try:
            yield runner
        finally:
            runner.close()

    def _graphs(self, arch: Arch, shape: Shape, storage: str) -> Graphs:
        target = resolve_target(shape.target)
        compiler = find_compiler(target, os.environ, self._folder / "compilers")

        def build(source: str) -> Path:
            digest = hashlib.sha256(f"{target.name} {source}".encode()).hexdigest()
            destination = self._folder / f"{digest}.so"
            if not destination.exists():
                compile_graph(compiler, target, source, destination)
            return destination

        sources = [
            emit(
                lower(
                    arch,
                    phase,
                    bucket,
                    batch_size=shape.batch_size,
                    storage=storage,
                    compute=shape.compute,
                    target=target,
                )
            )
            for phase, bucket in shape.graphs
        ]
        return dict(zip(shape.graphs, self._workers.map(build, sources), strict=True))

    def _weights(
        self, model: Path, arch: Arch, by_file: Mapping[str, Any], compute: str, storage: str
    ) -> list[Path]:
        folder = self._folder / hashlib.sha256(f"{model}/{storage}".encode()).hexdigest()
        folder.mkdir(exist_ok=True)
        files = []
        for planned in plan_files(arch, by_file, compute):
            source, destination = model / planned.name, folder / planned.name
            if planned.action == "convert" and not destination.exists():
                convert_file(source, destination, storage)
            elif not destination.exists():
                shutil.copyfile(source, destination)
            files.append(destination)
        return files
