"""One build: reuse what exists, compile the rest, lay the weights, publish."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts._version import __version__
from neuron_artifacts.artifact import GraphEntry, Manifest, read_manifest
from neuron_artifacts.backends.base import Backend, ResolvedSpec
from neuron_artifacts.backends.checks import check_artifact
from neuron_artifacts.build.lookup import refuse_foreign
from neuron_artifacts.build.progress import Clock
from neuron_artifacts.build.provenance import describe_build, timestamp
from neuron_artifacts.build.repair import request_of
from neuron_artifacts.errors import CorruptError, ModelNotFoundError, StoreError
from neuron_artifacts.events import GraphChanged, GraphState, Note
from neuron_artifacts.key import canonical_json
from neuron_artifacts.model.snapshot import CONFIG_NAME
from neuron_artifacts.plan import Decision, GraphStep
from neuron_artifacts.store import LocalStore, Staging
from neuron_artifacts.store.staging import rename_without_replacing


@dataclass(frozen=True)
class Outcome:
    """What ``compile`` did. ``seconds`` are per phase, in the order they ran.

    ``troubles`` are what failed and was done without: reading a cache, writing to a remote store.
    """

    decision: Decision
    path: Path
    manifest: Manifest
    seconds: Mapping[str, float]
    compiled: int = 0
    set_aside: tuple[Path, ...] = ()
    waited: bool = False
    fetched_from: str | None = None
    troubles: tuple[str, ...] = ()


class BuildJob(ABC):
    """One build: its parts share the staging directory and the clock.

    ``serve`` is what the backend adds to the manifest's serve recipe.
    """

    def __init__(
        self,
        backend: Backend,
        resolved: ResolvedSpec,
        store: LocalStore,
        destination: Path,
        decision: Decision,
        clock: Clock,
    ) -> None:
        self.backend = backend
        self.resolved = resolved
        self.store = store
        self.destination = destination
        self.decision = decision
        self.clock = clock
        self.observe = clock.observe
        self.serve: dict[str, Any] = {}
        self._began = timestamp()

    def run(self) -> Outcome:
        set_aside: list[Path] = []
        with self.store.stage(self.resolved.key.key, self.destination) as staging:
            with self.clock.phase("compile"):
                graphs = self._lay_graphs(staging)
            with self.clock.phase("weights"):
                self._lay_weights(staging)
                self._lay_model_files(staging)
            with self.clock.phase("publish"):
                manifest = self._manifest(staging, graphs)
                published = self._publish(staging, manifest, set_aside)
        return Outcome(
            self.decision, self.destination, published, self.clock.seconds,
            compiled=sum(graph.reused_from is None for graph in graphs),
            set_aside=tuple(set_aside),
        )  # fmt: skip

    @abstractmethod
    def _lay_graphs(self, staging: Staging) -> list[GraphEntry]:
        """Reuse or compile every graph."""

    @abstractmethod
    def _lay_weights(self, staging: Staging) -> None:
        """Lay every weight file beside the graphs."""

    def _place_graph(self, staging: Staging, step: GraphStep) -> GraphEntry | None:
        """Take a graph from where it exists; ``None`` if it is not there or does not hold."""
        if step.source is None or step.entry is None or step.sha256 is None:
            return None
        if step.task.file not in staging:
            try:
                staging.place(
                    step.source, step.task.file, "graph", sha256=step.sha256, may_hardlink=True
                )
            except (CorruptError, StoreError) as error:
                text = f"{step.source} cannot be reused ({error}); compiling it"
                self.observe(Note(text, is_trouble=True))
                return None
        self._tell(step, "reused")
        return replace(
            step.entry, phase=step.task.phase, bucket=step.task.bucket, file=step.task.file,
            reused_from=step.source_key,
        )  # fmt: skip

    def _lay_model_files(self, staging: Staging) -> None:
        model = self.resolved.model
        if CONFIG_NAME not in staging:
            staging.write(CONFIG_NAME, pretty(model.config), "model")
        for file in model.asset_files:
            if file.name in staging:
                continue
            if file.path is None:
                raise ModelNotFoundError(f"{file.name} is not on this machine")
            staging.place(
                file.path, file.name, "model", sha256=model.sha256(file), may_hardlink=False
            )

    def _manifest(self, staging: Staging, graphs: list[GraphEntry]) -> Manifest:
        resolved, key = self.resolved, self.resolved.key
        config = resolved.neuron_config
        return Manifest(
            key=key.key,
            graphs_digest=key.graphs_digest,
            weights_digest=key.weights_digest,
            document=key.document,
            backend=resolved.backend,
            target=resolved.target,
            neuron_config=config.document(),
            toolchain=dict(resolved.toolchain),
            model={
                "name": resolved.model.name,
                "source": resolved.model.source,
                "revision": resolved.model.revision,
                **({"request": request} if (request := request_of(resolved.spec)) else {}),
            },
            graphs=tuple(graphs),
            files=staging.files,
            serve={
                "max_model_len": config.max_model_len,
                "max_num_seqs": config.batch_size,
                "served_model_name": resolved.model.name,
                **self.serve,
            },
            created=timestamp(),
            created_by=f"neuron-artifacts {__version__}",
        )

    def _publish(self, staging: Staging, manifest: Manifest, set_aside: list[Path]) -> Manifest:
        """Publish, making way first; whoever else published the same key meanwhile has won."""
        staging.complete(manifest, sidecars=describe_build(self.resolved, manifest, self._began))
        self._look_over(staging)
        for _ in range(3):
            with self._making_way(set_aside):
                if staging.publish(manifest, self.destination):
                    return manifest
            verdict = check_artifact(
                self.destination, "full", digests=self.store.digests, host=False
            )
            if verdict.status == "unreadable" and not self.decision.forced:
                raise verdict.error()
            if verdict.status == "ok" and verdict.manifest and verdict.manifest.key == manifest.key:
                return read_manifest(self.destination)
        raise StoreError(
            f"{self.destination} cannot be published: something else keeps it occupied"
        )

    @staticmethod
    def _look_over(staging: Staging) -> None:
        """See that what compilers wrote begins and ends as it should: a disk may lose bytes."""
        verdict = check_artifact(staging.path, "quick", host=False)
        if verdict.status != "ok":
            raise StoreError(
                f"what was built is {verdict.status}: {verdict.problems[0]}",
                hint="run the command again; if that does not help, look at the disk",
            )

    @contextmanager
    def _making_way(self, set_aside: list[Path]) -> Iterator[None]:
        """What lies there is set aside, and comes back if nothing can take its place."""
        if not self._must_make_way():
            yield
            return
        aside = self.store.set_aside(self.destination)
        try:
            yield
        except BaseException:
            with suppress(OSError):
                rename_without_replacing(aside, self.destination)
            raise
        set_aside.append(aside)
        self.observe(Note(f"what lay there was set aside as {aside}"))

    def _must_make_way(self) -> bool:
        verdict = check_artifact(self.destination, "full", digests=self.store.digests, host=False)
        if verdict.status == "missing":
            return False
        refuse_foreign(self.destination, self.store, verdict.manifest is None)
        if verdict.status == "unreadable" and not self.decision.forced:
            raise verdict.error()
        same = verdict.manifest is not None and verdict.manifest.key == self.resolved.key.key
        return not (verdict.status == "ok" and same) or self.decision.forced

    def _tell(self, step: GraphStep, state: GraphState, seconds: float | None = None) -> None:
        self.observe(GraphChanged(step.task.phase, step.task.bucket, state, seconds))


def pretty(value: Mapping[str, object]) -> bytes:
    """JSON as people read it, for the small files of an artifact."""
    canonical_json(value)  # refuses what JSON cannot carry
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
