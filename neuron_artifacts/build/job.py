"""One build: reuse what exists, compile the rest, lay the weights, publish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from neuron_artifacts._version import __version__
from neuron_artifacts.artifact import GraphEntry, Manifest, read_manifest
from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.backends.checks import check_artifact
from neuron_artifacts.backends.registry import get_backend
from neuron_artifacts.build.lookup import compiler_jobs, refuse_foreign
from neuron_artifacts.build.progress import ByteReport, Clock
from neuron_artifacts.errors import CorruptError, ModelNotFoundError, StoreError
from neuron_artifacts.events import GraphChanged, GraphState, Note
from neuron_artifacts.key import canonical_json
from neuron_artifacts.model.snapshot import CONFIG_NAME, INDEX_NAME
from neuron_artifacts.plan import Decision, GraphStep, WeightStep
from neuron_artifacts.store import LocalStore, Staging
from neuron_artifacts.store.staging import storing


@dataclass(frozen=True)
class Outcome:
    """What ``compile`` did. ``seconds`` are per phase, in the order they ran."""

    decision: Decision
    path: Path
    manifest: Manifest
    seconds: Mapping[str, float]
    compiled: int = 0
    set_aside: tuple[Path, ...] = ()
    waited: bool = False


class BuildJob:
    """One build: its parts share the staging directory and the clock."""

    def __init__(
        self,
        resolved: ResolvedSpec,
        store: LocalStore,
        destination: Path,
        decision: Decision,
        clock: Clock,
    ) -> None:
        self.resolved = resolved
        self.store = store
        self.destination = destination
        self.decision = decision
        self.clock = clock
        self.observe = clock.observe
        self.jobs = compiler_jobs(resolved)
        self.backend = get_backend(resolved.backend)

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

    def _lay_graphs(self, staging: Staging) -> list[GraphEntry]:
        steps = list(self.decision.graphs)
        entries: dict[int, GraphEntry] = {}
        for number, step in enumerate(steps):
            entry = self._reuse(staging, step)
            if entry:
                entries[number] = entry
            else:
                self._tell(step, "queued")
        fresh = [number for number in range(len(steps)) if number not in entries]
        pool = ThreadPoolExecutor(max_workers=max(1, min(self.jobs, len(fresh))))
        try:
            futures = {pool.submit(self._compile, staging, steps[n]): n for n in fresh}
            _wait_for(futures)
            entries.update({n: future.result() for future, n in futures.items()})
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for number in fresh:
            staging.adopt(entries[number].file, "graph")
        return [entries[number] for number in range(len(steps))]

    def _reuse(self, staging: Staging, step: GraphStep) -> GraphEntry | None:
        if step.source is None or step.entry is None or step.sha256 is None:
            return None
        try:
            staging.place(
                step.source, step.task.file, "graph", sha256=step.sha256, may_hardlink=True
            )
        except (CorruptError, StoreError) as error:
            self.observe(Note(f"{step.source} cannot be reused ({error}); compiling it"))
            return None
        self._tell(step, "reused")
        return replace(
            step.entry, phase=step.task.phase, bucket=step.task.bucket, file=step.task.file,
            reused_from=step.source_key,
        )  # fmt: skip

    def _compile(self, staging: Staging, step: GraphStep) -> GraphEntry:
        self._tell(step, "compiling")
        task = step.task
        try:
            with storing(staging.path):
                cost = self.backend.compile_graph(self.resolved, task, staging.reserve(task.file))
        except BaseException:
            self._tell(step, "failed")
            raise
        self._tell(step, "compiled", cost.seconds)
        return GraphEntry(
            task.phase, task.bucket, task.file, task.digest, cost.seconds, cost.peak_memory_bytes
        )

    def _lay_weights(self, staging: Staging) -> None:
        report = ByteReport(
            "laying weights", sum(s.task.source.size for s in self.decision.weights), self.observe
        )
        for step in self.decision.weights:
            name = f"weights/{step.task.source.name}"
            if not self._reuse_weights(staging, step, name, report):
                self._take_weights(staging, step, name, report)

    def _reuse_weights(
        self, staging: Staging, step: WeightStep, name: str, report: ByteReport
    ) -> bool:
        if step.source is None or step.sha256 is None:
            return False
        try:
            staging.place(
                step.source, name, "weights", sha256=step.sha256, may_hardlink=True,
                on_bytes=report.add,
            )  # fmt: skip
        except (CorruptError, StoreError) as error:
            self.observe(Note(f"{step.source} cannot be reused ({error})"))
            return False
        return True

    def _take_weights(
        self, staging: Staging, step: WeightStep, name: str, report: ByteReport
    ) -> None:
        source = step.task.source
        if source.path is None:
            raise ModelNotFoundError(
                f"{source.name} is not on this machine, and the artifact that has it is damaged",
                hint=f"remove {step.source and step.source.parent.parent} and run this again",
            )
        if step.task.stored_as:
            with storing(staging.path):
                self.backend.convert_weights(self.resolved, step.task, staging.reserve(name))
            staging.adopt(name, "weights")
            return
        staging.place(
            source.path, name, "weights", sha256=step.task.identity[0],
            # A hub cache names a blob by its content and never rewrites it; a folder of the
            # user's may be trained into again, which would reach into the artifact.
            may_hardlink=source.known_sha256 is not None, on_bytes=report.add,
        )  # fmt: skip

    def _lay_model_files(self, staging: Staging) -> None:
        model = self.resolved.model
        staging.write(CONFIG_NAME, _pretty(model.config), "model")
        staging.write(
            "neuron_config.json", _pretty(self.resolved.neuron_config.document()), "model"
        )
        if model.index is not None:
            staging.write(f"weights/{INDEX_NAME}", _pretty(model.index), "model")
        for file in model.asset_files:
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
            },
            graphs=tuple(graphs),
            files=staging.files,
            serve={
                "max_model_len": config.max_model_len,
                "max_num_seqs": config.batch_size,
                "served_model_name": resolved.model.name,
            },
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            created_by=f"neuron-artifacts {__version__}",
        )

    def _publish(self, staging: Staging, manifest: Manifest, set_aside: list[Path]) -> Manifest:
        """Publish, making way first; whoever else published the same key meanwhile has won."""
        for _ in range(3):
            if self._must_make_way():
                set_aside.append(self.store.set_aside(self.destination))
                self.observe(Note(f"what lay there was set aside as {set_aside[-1]}"))
            if staging.publish(manifest, self.destination):
                return manifest
            verdict = check_artifact(
                self.destination, "full", digests=self.store.digests, host=False
            )
            if verdict.status == "ok" and verdict.manifest and verdict.manifest.key == manifest.key:
                return read_manifest(self.destination)
        raise StoreError(
            f"{self.destination} cannot be published: something else keeps it occupied"
        )

    def _must_make_way(self) -> bool:
        verdict = check_artifact(self.destination, "full", digests=self.store.digests, host=False)
        if verdict.status == "missing":
            return False
        refuse_foreign(self.destination, self.store, verdict.manifest is None)
        same = verdict.manifest is not None and verdict.manifest.key == self.resolved.key.key
        return not (verdict.status == "ok" and same) or self.decision.forced

    def _tell(self, step: GraphStep, state: GraphState, seconds: float | None = None) -> None:
        self.observe(GraphChanged(step.task.phase, step.task.bucket, state, seconds))


def _wait_for(futures: Mapping[Future[GraphEntry], int]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _pretty(value: Mapping[str, object]) -> bytes:
    canonical_json(value)  # refuses what JSON cannot carry
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
