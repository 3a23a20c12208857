"""What a backend is: the port every compiler of graphs implements.

``resolve`` is where a request meets a model and a toolchain: every default is filled in and the
key is known, but nothing has been compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from neuron_artifacts.artifact import GraphEntry, Manifest
from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.runner import Runner
from neuron_artifacts.events import BytesMoved, Observer
from neuron_artifacts.key import ArtifactKey
from neuron_artifacts.model import ModelFile, ModelSnapshot, resolve_model
from neuron_artifacts.neuron_config import NeuronConfig
from neuron_artifacts.spec import CompileSpec


@dataclass(frozen=True)
class GraphTask:
    """One graph an artifact needs; two tasks with one digest compile to the same bytes."""

    phase: str
    bucket: int
    digest: str
    file: str


@dataclass(frozen=True)
class WeightTask:
    """One weight file an artifact needs.

    ``stored_as`` is ``None`` where the checkpoint's file is used as it is, else the dtype its
    matrices are converted to. ``identity`` names the result before it exists.
    """

    source: ModelFile
    stored_as: str | None
    identity: tuple[str, str | None]


@dataclass(frozen=True)
class Estimate:
    """What the artifact will take, in bytes, before anything is built."""

    weights: int
    cache: int
    compile_job: int


class Resources(Protocol):
    """What this machine has, in bytes: memory, and free disk where the artifact will lie."""

    @property
    def memory(self) -> int: ...

    @property
    def disk(self) -> int: ...


@dataclass(frozen=True)
class GraphCost:
    """What compiling one graph took."""

    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class BuiltDirectory:
    """What a library wrote: its graphs, and what serving them takes beyond the directory.

    ``companions`` are weights that it reads beside the model's own, by their names in the
    artifact; ``reads_checkpoint`` is false where they are read instead of the model's own.
    """

    graphs: tuple[GraphEntry, ...]
    serve: Mapping[str, Any]
    companions: Mapping[str, Path] = field(default_factory=dict)
    reads_checkpoint: bool = True


@dataclass(frozen=True)
class ResolvedSpec:
    """A request with every default filled in. ``work`` is the backend's own."""

    spec: CompileSpec
    model: ModelSnapshot
    backend: str
    target: str
    toolchain: Mapping[str, Any]
    neuron_config: NeuronConfig
    graphs: tuple[GraphTask, ...]
    weights: tuple[WeightTask, ...]
    key: ArtifactKey
    estimate: Estimate
    notes: tuple[str, ...]
    work: Any


def find_checkpoint(spec: CompileSpec, *, weights: bool, observe: Observer) -> ModelSnapshot:
    """How most backends find a model: a checkpoint in a folder or at the hub."""
    return resolve_model(
        spec.model, revision=spec.revision, weights=weights,
        progress=lambda name, done, total: observe(BytesMoved(f"downloading {name}", done, total)),
    )  # fmt: skip


class Backend(Protocol):
    """Compiles, checks and runs one kind of artifact."""

    name: str

    def find_model(self, spec: CompileSpec, *, weights: bool, observe: Observer) -> ModelSnapshot:
        """Read the model; with ``weights=False`` those of a hub model stay there.

        Raises
        ------
        ModelNotFoundError, ModelFormatError, HubError
        """
        ...

    def resolve(
        self, spec: CompileSpec, model: ModelSnapshot, environ: Mapping[str, str]
    ) -> ResolvedSpec:
        """Fill in every default and derive the key.

        Raises
        ------
        SpecError, UnsupportedModelError, ModelFormatError, ToolchainError
        """
        ...

    def examine(
        self, resolved: ResolvedSpec, resources: Resources, environ: Mapping[str, str]
    ) -> tuple[Finding, ...]:
        """What would fail later, may fail, or is good to know; reads no weight."""
        ...

    def check_host(self, manifest: Manifest) -> list[str]:
        """What keeps this machine from running the artifact, one line each."""
        ...

    def open_runner(self, directory: Path, manifest: Manifest, *, threads: int | None) -> Runner:
        """Load a verified artifact. Never compiles."""
        ...


@runtime_checkable
class GraphBackend(Backend, Protocol):
    """Compiles graph by graph: each is a file of its own, and each can be reused alone."""

    def compile_graph(
        self, resolved: ResolvedSpec, task: GraphTask, destination: Path
    ) -> GraphCost:
        """Compile one graph to ``destination``; may run in several threads at once."""
        ...

    def convert_weights(self, resolved: ResolvedSpec, task: WeightTask, destination: Path) -> None:
        """Write the converted copy of one weight file."""
        ...


@runtime_checkable
class DirectoryBackend(Backend, Protocol):
    """Drives a library that writes the whole directory at once."""

    def build_directory(
        self,
        resolved: ResolvedSpec,
        directory: Path,
        *,
        work: Path,
        weights_only: bool,
        observe: Observer,
    ) -> BuiltDirectory:
        """Write the artifact's files into ``directory``.

        ``work`` is an empty directory of this build's own, the same one for the same graphs
        whenever that is possible. With ``weights_only`` the graphs lie in ``directory`` already.

        Raises
        ------
        CompileError
            With the cause as far as it is known, and where the log lies.
        """
        ...
