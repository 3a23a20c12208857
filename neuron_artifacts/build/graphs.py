"""Build graph by graph: compile what is missing in parallel, take weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

from neuron_artifacts.artifact import GraphEntry
from neuron_artifacts.backends.base import GraphBackend
from neuron_artifacts.build.job import BuildJob, pretty
from neuron_artifacts.build.lookup import compiler_jobs
from neuron_artifacts.build.progress import ByteReport
from neuron_artifacts.errors import CorruptError, ModelNotFoundError, StoreError
from neuron_artifacts.events import Note
from neuron_artifacts.model.snapshot import INDEX_NAME
from neuron_artifacts.plan import GraphStep, WeightStep
from neuron_artifacts.store import Staging
from neuron_artifacts.store.staging import storing


class GraphJob(BuildJob):
    """For a backend whose graphs are files of their own."""

    def __init__(self, backend: GraphBackend, *rest: Any) -> None:
        super().__init__(backend, *rest)
        self._compiler = backend

    def _lay_graphs(self, staging: Staging) -> list[GraphEntry]:
        steps = list(self.decision.graphs)
        entries: dict[int, GraphEntry] = {}
        for number, step in enumerate(steps):
            entry = self._place_graph(staging, step)
            if entry:
                entries[number] = entry
            else:
                self._tell(step, "queued")
        fresh = [number for number in range(len(steps)) if number not in entries]
        pool = ThreadPoolExecutor(max_workers=max(1, min(compiler_jobs(self.resolved), len(fresh))))
        try:
            futures = {pool.submit(self._compile, staging, steps[n]): n for n in fresh}
            _wait_for(futures)
            entries.update({n: future.result() for future, n in futures.items()})
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for number in fresh:
            staging.adopt(entries[number].file, "graph")
        return [entries[number] for number in range(len(steps))]

    def _compile(self, staging: Staging, step: GraphStep) -> GraphEntry:
        self._tell(step, "compiling")
        task = step.task
        try:
            with storing(staging.path):
                cost = self._compiler.compile_graph(self.resolved, task, staging.reserve(task.file))
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
            self.observe(Note(f"{step.source} cannot be reused ({error})", is_trouble=True))
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
                self._compiler.convert_weights(self.resolved, step.task, staging.reserve(name))
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
        staging.write("neuron_config.json", pretty(self.resolved.neuron_config.document()), "model")
        if model.index is not None:
            staging.write(f"weights/{INDEX_NAME}", pretty(model.index), "model")
        super()._lay_model_files(staging)


def _wait_for(futures: Mapping[Future[GraphEntry], int]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
