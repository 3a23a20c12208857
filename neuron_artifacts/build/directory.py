"""Build through a library that writes the whole directory: one run gives all graphs or none."""

from __future__ import annotations

from typing import Any

from neuron_artifacts.artifact import GraphEntry
from neuron_artifacts.artifact.manifest import Role
from neuron_artifacts.backends import compiles
from neuron_artifacts.backends.base import BuiltDirectory, DirectoryBackend
from neuron_artifacts.build.job import BuildJob, pretty
from neuron_artifacts.build.progress import ByteReport
from neuron_artifacts.build.workspace import workspace
from neuron_artifacts.errors import HubError, ModelNotFoundError
from neuron_artifacts.model.snapshot import INDEX_NAME
from neuron_artifacts.store import Staging


class DirectoryJob(BuildJob):
    """For a backend that drives a library; graphs that exist are kept, and only weights made."""

    def __init__(self, backend: DirectoryBackend, *rest: Any) -> None:
        super().__init__(backend, *rest)
        self._library = backend
        self._built = BuiltDirectory((), {})

    def _lay_graphs(self, staging: Staging) -> list[GraphEntry]:
        steps = self.decision.graphs
        placed = [self._place_graph(staging, step) for step in steps]
        reused = [entry for entry in placed if entry is not None]
        weights_only = len(reused) == len(steps)
        if not weights_only:
            compiles.record()
            for step in steps:
                self._tell(step, "queued")
        with workspace(self.resolved.key.graphs_digest) as work:
            self._built = built = self._library.build_directory(
                self.resolved, staging.path, work=work, weights_only=weights_only,
                observe=self.observe,
            )  # fmt: skip
        self.serve = dict(built.serve)
        graphs = reused if weights_only else list(built.graphs)
        files = {graph.file for graph in graphs}
        staging.adopt_all(lambda name: _role(name, files))
        self._check_promised(staging)
        return graphs

    def _check_promised(self, staging: Staging) -> None:
        """What was downloaded as it is must be what the hub said it is."""
        promised = {file.name: file.known_sha256 for file in self.resolved.model.weight_files}
        for file in staging.files:
            if promised.get(file.path) not in (None, file.sha256):
                raise HubError(
                    f"{file.path} arrived damaged: sha256 {file.sha256} where the hub promises "
                    f"{promised[file.path]}",
                    hint="run the command again; a proxy or mirror may change files on the way",
                )

    def _lay_weights(self, staging: Staging) -> None:
        """Weights the library has not sharded: it reads the checkpoint beside its graphs."""
        if self._built.reads_checkpoint and not any(f.role == "weights" for f in staging.files):
            self._lay_checkpoint(staging)
        digests = self.store.digests
        for name, path in self._built.companions.items():
            staging.place(
                path, name, _role(name, set()), sha256=digests.digest(path), may_hardlink=False
            )

    def _lay_checkpoint(self, staging: Staging) -> None:
        if self.resolved.model.index is not None:
            staging.write(INDEX_NAME, pretty(self.resolved.model.index), "model")
        files = [step.task.source for step in self.decision.weights]
        report = ByteReport("laying weights", sum(file.size for file in files), self.observe)
        for file in files:
            if file.path is None:
                raise ModelNotFoundError(f"{file.name} is not on this machine")
            staging.place(
                file.path, file.name, "weights", sha256=self.resolved.model.sha256(file),
                may_hardlink=file.known_sha256 is not None, on_bytes=report.add,
            )  # fmt: skip


def _role(name: str, graphs: set[str]) -> Role:
    if (name in graphs and not name.endswith(".json")) or name.endswith(".neff"):
        return "graph"
    is_weights = "weights/" in name or name.endswith((".safetensors", ".bin"))
    return "weights" if is_weights else "model"
