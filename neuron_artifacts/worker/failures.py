"""What to tell about a worker that failed: decided from its last words, exit code and log."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import CompileError, CompileInterruptedError
from neuron_artifacts.worker.causes import Cause, classify

_EXCERPT_LINES = 12
_LOG_FILES, _LOG_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class Outcome:
    """How a worker ended.

    ``failed`` are the fields of its last message where that told of an exception, ``broken``
    says what was wrong with a message, and ``returncode`` is ``None`` where it had to be ended.
    """

    returncode: int | None
    failed: Mapping[str, Any] | None = None
    broken: str | None = None


@dataclass(frozen=True)
class Report:
    """A failure in words: one line, the way out, and the log's last lines."""

    cause: Cause
    message: str
    excerpt: str

    def error(self) -> CompileError:
        interrupted = self.cause.kind == "interrupted"
        kind = CompileInterruptedError if interrupted else CompileError
        return kind(self.message, hint=self.cause.hint, log=self.excerpt, cause=self.cause.kind)


def report(outcome: Outcome, what: str, log: Path, compile_directory: Path) -> Report:
    """Describe a failure of ``what`` (an action's name)."""
    printed = _read(log)
    exception = _exception(outcome.failed)
    if outcome.broken is not None:
        cause = Cause("unknown", "its worker broke the protocol", _BROKEN, detail=outcome.broken)
    else:
        everything = printed + _compiler_logs(compile_directory)
        cause = classify(everything, outcome.returncode, exception)
    told = [cause.summary, cause.detail]
    if outcome.failed is None and outcome.broken is None:
        told.append(_ending(outcome.returncode))
    story = ": ".join(dict.fromkeys(part for part in told if part))
    message = f"{what} failed: {story} (log: {log})"
    lines = _without_frames(printed.strip().splitlines())[-_EXCERPT_LINES:]
    return Report(cause, message, "\n".join(lines))


_BROKEN = "something in that interpreter writes where only the worker may; the log may say what"


def _without_frames(lines: list[str]) -> list[str]:
    """Leave out Python's stack frames: they are in the log, and say nothing to most people."""
    kept: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not (inside and line.startswith(" ")):
            inside = False
            kept.append(line)
    return kept


def _exception(failed: Mapping[str, Any] | None) -> str | None:
    return None if failed is None else f"{failed['type']}: {failed['message']}"


def _ending(returncode: int | None) -> str:
    if returncode is None:
        return "the worker gave no result and did not leave, so it was ended"
    if returncode >= 0:
        return f"the worker left with exit code {returncode} and without a result"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"the worker was killed by {name}"


def _read(log: Path) -> str:
    try:
        return log.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _compiler_logs(directory: Path) -> str:
    """The ends of ``log-neuron-cc.txt``, which neuronx-cc writes beside each graph."""
    tails = []
    for path in sorted(directory.rglob("log-neuron-cc.txt"))[:_LOG_FILES]:
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            tails.append(file.read().decode("utf-8", "replace"))
    return "\n".join(tails)
