"""Every error this project raises on purpose.

Each carries a one-line message, a hint that names the way out, and the exit code the command
line ends with. The library never prints them; :mod:`neuron_artifacts.cli` does, in one place.

::

    NeuronArtifactsError            1   anything that went wrong
    ├── UsageError                  2   the call itself is wrong
    │   └── SpecError               2   a value in the Neuron configuration is wrong
    ├── MissError                   3   no such artifact
    ├── IncompatibleError           4   the artifact cannot run or be read here
    ├── CorruptError                5   bytes differ from what the manifest promises
    │   └── IncompleteError         5   files are missing
    ├── UntrustedError              6   contents nobody vouched for
    ├── RefusedError                7   would fail later, so it is refused now
    │   ├── UnsupportedModelError   7   the backend does not implement this model
    │   └── ResourceError           7   not enough disk, memory or cores
    ├── ModelError                  1   the model cannot be used
    │   ├── ModelNotFoundError      1   no such folder, repository or revision
    │   ├── ModelFormatError        1   a file of the model is not what it should be
    │   └── HubError                1   the hub did not answer, or refused
    ├── ToolchainError              1   a compiler is missing or does not work
    │   └── CompileError            1   the compiler ran and failed
    │       └── CompileInterruptedError  130   somebody ended the compiler
    ├── StoreError                  1   the store cannot be read or written
    │   └── RemoteError             1   a remote store does not answer, or refuses
    ├── ServeError                  1   the server cannot start
    │   └── EngineError             1   the engine stopped, or the model gave no usable logits
    └── RequestError                2   a generation request is invalid (HTTP 400)
        ├── ContextLengthError      2   the prompt or the answer does not fit (HTTP 400)
        └── EngineBusyError         1   the queue is full or draining (HTTP 429 or 503)
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process exits with; documented for CI scripts, so never renumbered."""

    OK = 0
    ERROR = 1
    USAGE = 2
    MISS = 3
    INCOMPATIBLE = 4
    CORRUPT = 5
    UNTRUSTED = 6
    REFUSED = 7
    INTERRUPTED = 130


class NeuronArtifactsError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message:
        One line that says what is wrong, with the names and numbers at hand.
    hint:
        One line that says what to do about it; ``None`` where nothing can be said.
    options:
        The options of a request that are at fault, where the rest makes sense without them.
    """

    exit_code: ExitCode = ExitCode.ERROR

    def __init__(
        self, message: str, *, hint: str | None = None, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.options = options

    def __str__(self) -> str:
        return self.message


class UsageError(NeuronArtifactsError):
    exit_code = ExitCode.USAGE


class SpecError(UsageError):
    pass


class MissError(NeuronArtifactsError):
    exit_code = ExitCode.MISS


class IncompatibleError(NeuronArtifactsError):
    exit_code = ExitCode.INCOMPATIBLE


class CorruptError(NeuronArtifactsError):
    exit_code = ExitCode.CORRUPT


class IncompleteError(CorruptError):
    pass


class UntrustedError(NeuronArtifactsError):
    exit_code = ExitCode.UNTRUSTED


class RefusedError(NeuronArtifactsError):
    exit_code = ExitCode.REFUSED


class UnsupportedModelError(RefusedError):
    pass


class ResourceError(RefusedError):
    pass


class ModelError(NeuronArtifactsError):
    pass


class ModelNotFoundError(ModelError):
    pass


class ModelFormatError(ModelError):
    pass


class HubError(ModelError):
    pass


class ToolchainError(NeuronArtifactsError):
    pass


class CompileError(ToolchainError):
    """A compiler ran and failed.

    ``log`` holds what it printed, and ``cause`` names why, as
    :class:`neuron_artifacts.worker.causes.Cause` does.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, log: str = "", cause: str = "unknown"
    ) -> None:
        super().__init__(message, hint=hint)
        self.log, self.cause = log, cause


class CompileInterruptedError(CompileError):
    exit_code = ExitCode.INTERRUPTED


class StoreError(NeuronArtifactsError):
    pass


class RemoteError(StoreError):
    """A remote store's trouble; ``passing`` says that asking again may help, ``after`` seconds."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        passing: bool = False,
        after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing
        self.after = after


class ServeError(NeuronArtifactsError):
    pass


class EngineError(ServeError):
    pass


class RequestError(NeuronArtifactsError):
    """A generation request that cannot be honoured; ``param`` names the field at fault."""

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class ContextLengthError(RequestError):
    pass


class EngineBusyError(RequestError):
    """The queue is full (``draining`` false) or the engine is stopping (true)."""

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, *, draining: bool, retry_after: int = 1) -> None:
        super().__init__(message)
        self.draining = draining
        self.retry_after = retry_after
