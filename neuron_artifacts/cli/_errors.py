"""The one place where errors are printed; :mod:`_output` makes them fit to be."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from neuron_artifacts._files import advise
from neuron_artifacts.cli import _output
from neuron_artifacts.errors import CompileError, ExitCode, NeuronArtifactsError, ResourceError

DEBUG_VARIABLE = "NEURON_ARTIFACTS_DEBUG"


def handle_errors(command: Callable[..., int | None]) -> Callable[..., None]:
    """Run a command and exit with its code; what it raises becomes one line and a tip."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        code: int = ExitCode.OK
        try:
            code = command(*args, **kwargs) or ExitCode.OK
        except NeuronArtifactsError as error:
            code = _report(error, as_json=bool(kwargs.get("as_json")))
        except KeyboardInterrupt:
            _output.talk("interrupted; whatever was finished is kept")
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:
            # Whoever read our output has left; Python must not complain while closing it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.ERROR
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            code = _report(_unexpected(error), as_json=bool(kwargs.get("as_json")))
        sys.exit(int(code))

    return run


def _unexpected(error: Exception) -> NeuronArtifactsError:
    if isinstance(error, MemoryError):
        return NeuronArtifactsError("out of memory", hint="lower --batch-size or --seq-len")
    if isinstance(error, FileNotFoundError) and not error.filename:  # of os.getcwd()
        return NeuronArtifactsError("the current folder is gone", hint="change to one that exists")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return NeuronArtifactsError(f"{where}{error.strerror or error}", hint=advise(error))
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        hint = "raise the limit of processes (ulimit -u, or pids.max of the container)"
        return ResourceError("no further thread may be started", hint=hint)
    return NeuronArtifactsError(
        f"this is a bug: {type(error).__name__}: {error}",
        hint=f"please report it with what {DEBUG_VARIABLE}=1 prints",
    )


def _report(error: NeuronArtifactsError, *, as_json: bool) -> int:
    if isinstance(error, CompileError) and error.log:
        _output.talk(error.log.rstrip())
    # Further lines are indented, so that no name in the message can begin one of its own.
    message = error.message.replace("\n", "\n  ")
    _output.talk(f"{_output.styled('error:', 'red')} {message}")
    hint = error.hint
    if hint is None and isinstance(error.__context__, OSError):
        hint = advise(error.__context__)
    if hint:
        tip = _output.printable(hint, one_line=True)
        _output.talk(f"{_output.styled('tip:', 'yellow')} {tip}")
    if as_json:
        body = {
            "type": type(error).__name__,
            "message": error.message,
            "hint": hint,
            "exit_code": int(error.exit_code),
        }
        _output.print_json({"error": body})
    return int(error.exit_code)
