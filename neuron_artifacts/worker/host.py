"""Run a worker to its result, or keep one that serves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import EngineError, ServeError
from neuron_artifacts.worker.causes import change_for_retry
from neuron_artifacts.worker.events import Stopwatch, WorkerEvent, WorkerObserver
from neuron_artifacts.worker.failures import Outcome, Report, report
from neuron_artifacts.worker.messages import BrokenMessageError, Message
from neuron_artifacts.worker.process import Job, Worker

_LAST = ("result", "failed")


def ignore(_event: WorkerEvent) -> None:
    """Watch nothing."""


def run_worker(
    python: Path,
    worker: Path,
    request: Mapping[str, Any],
    *,
    directory: Path,
    environ: Mapping[str, str],
    observe: WorkerObserver = ignore,
) -> Mapping[str, Any]:
    """Run one request in ``python`` and give what the worker's ``run`` returns.

    Where :mod:`.causes` says that it can help, a failed request is tried once more. Whatever
    interrupts this call ends the worker and its compilers first.

    Parameters
    ----------
    directory:
        The job's own, see :class:`.process.Job`; the log stays there as ``worker.log``.

    Raises
    ------
    CompileError
        The worker failed; the message has the cause and the path of the log.
    CompileInterruptedError
        Somebody else interrupted the worker.
    ToolchainError, StoreError
        See :class:`.process.Worker`.
    """
    directory = directory.absolute()
    log = directory / "worker.log"
    job = Job(python.absolute(), worker.absolute(), request, directory, environ, log)
    outcome = _run(job, observe)
    if isinstance(outcome, Report):
        changed = change_for_retry(outcome.cause, request, environ)
        if changed is None:
            raise outcome.error()
        observe(WorkerEvent("warning", {"text": f"{outcome.message}; trying once more"}))
        again = replace(
            job, request=changed[0], environ=changed[1], log=directory / "worker-retry.log"
        )
        outcome = _run(again, observe)
        if isinstance(outcome, Report):
            raise outcome.error()
    return outcome


def _run(job: Job, observe: WorkerObserver) -> Mapping[str, Any] | Report:
    """One attempt: the result, or why there is none."""
    watch = Stopwatch(observe)
    running = Worker(job)
    try:
        last, broken = _listen(running, watch)
        code = running.finish()
    finally:
        running.stop()
    watch.end_phase()
    if last and last.event == "result":
        if code is None:
            text = f"the worker gave its result but did not leave, so it was ended ({job.log})"
            observe(WorkerEvent("warning", {"text": text}))
        result: Mapping[str, Any] = last.fields["result"]
        return result
    outcome = Outcome(code, last.fields if last else None, broken)
    return _report(job, outcome)


def _listen(running: Worker, watch: Stopwatch) -> tuple[Message | None, str | None]:
    """Pass events on until the last message, which is ``None`` where there was none."""
    try:
        while (message := running.read()) is not None:
            if message.event in _LAST:
                return message, None
            watch.see(message.event, message.fields)
    except BrokenMessageError as error:
        running.stop()
        return None, str(error)
    return None, None


def _report(job: Job, outcome: Outcome) -> Report:
    what = str(job.request.get("action", "the worker"))
    return report(outcome, what, job.log, job.compile_directory)


class WorkerProcess:
    """A worker that has loaded its artifact and answers calls; one thread uses it."""

    def __init__(self, job: Job, observe: WorkerObserver, temporary: Path | None) -> None:
        self._job, self._temporary = job, temporary
        self._watch = Stopwatch(observe)
        self._running = Worker(job, serve=True)
        self._ended: str | None = None
        try:
            self.facts: Mapping[str, Any] = self._await("ready").fields["facts"]
        except EngineError as error:
            raise ServeError(error.message, hint=error.hint) from None
        except BaseException:
            self.close()
            raise
        self._watch.end_phase()

    def call(self, method: str, payload: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        """Ask the worker and wait for its answer.

        Raises
        ------
        EngineError
            The call failed there, or the worker has ended.
        """
        if self._ended is not None:
            raise EngineError(self._ended)
        with suppress(BrokenPipeError):  # its last words say why
            self._running.send({"method": method, "payload": payload})
        answer = self._await("answer", "refused")
        if answer.event == "refused":
            raise EngineError(f"{method}: {answer.fields['type']}: {answer.fields['message']}")
        return answer.fields["payload"], answer.data

    def close(self) -> None:
        """Let the worker leave, else end it; it is gone afterwards."""
        self._running.finish()
        if self._ended is None:
            self._ended = "the worker was closed"
            if self._temporary:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def _await(self, *events: str) -> Message:
        """The next message among ``events``; others are passed on."""
        broken, last = None, None
        try:
            while (message := self._running.read()) is not None:
                if message.event in events:
                    return message
                if message.event in _LAST:
                    last = message if message.event == "failed" else None
                    break
                self._watch.see(message.event, message.fields)
        except BrokenMessageError as error:
            broken = str(error)
            self._running.stop()
        code = self._running.finish()
        told = _report(self._job, Outcome(code, last.fields if last else None, broken))
        self._ended = told.message
        raise EngineError(told.message, hint=told.cause.hint)


def open_worker(
    python: Path,
    worker: Path,
    request: Mapping[str, Any],
    *,
    directory: Path | None = None,
    environ: Mapping[str, str],
    observe: WorkerObserver = ignore,
) -> WorkerProcess:
    """Start a worker that serves and wait until it is ready.

    Without ``directory`` it works in a temporary one, which stays if it fails, for its log.

    Raises
    ------
    ServeError
        It failed before it was ready.
    ToolchainError, StoreError
        See :class:`.process.Worker`.
    """
    temporary = None
    if directory is None:
        directory = temporary = Path(tempfile.mkdtemp(prefix="neuron-artifacts-worker-"))
    directory = directory.absolute()
    log = directory / "worker.log"
    job = Job(python.absolute(), worker.absolute(), request, directory, environ, log)
    return WorkerProcess(job, observe, temporary)
