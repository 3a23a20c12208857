"""Running a backend's worker in the interpreter that has its libraries."""

from neuron_artifacts.worker.causes import Cause, classify
from neuron_artifacts.worker.events import WorkerEvent
from neuron_artifacts.worker.host import WorkerProcess, open_worker, run_worker

__all__ = ["Cause", "WorkerEvent", "WorkerProcess", "classify", "open_worker", "run_worker"]
