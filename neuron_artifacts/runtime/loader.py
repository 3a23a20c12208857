"""From an artifact directory to something that generates: verify, load, warm up; never compile."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import Depth, Manifest
from neuron_artifacts.backends import compiles
from neuron_artifacts.backends.checks import check_artifact
from neuron_artifacts.backends.registry import backend_of_artifact
from neuron_artifacts.backends.runner import Runner
from neuron_artifacts.errors import UsageError
from neuron_artifacts.events import BytesMoved, Note, Observer, PhaseEnded, ignore
from neuron_artifacts.model.snapshot import GENERATION_NAME, read_json
from neuron_artifacts.spec import ARTIFACTS_VARIABLE
from neuron_artifacts.store.leases import hold
from neuron_artifacts.store.names import directory_called
from neuron_artifacts.trust.policy import load_policy, require_trust

if TYPE_CHECKING:
    from neuron_artifacts.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedArtifact:
    """An artifact in memory. ``seconds`` has the phases verify, load and warm-up."""

    directory: Path
    manifest: Manifest
    runner: Runner
    tokenizer: Tokenizer
    generation_config: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def max_model_len(self) -> int:
        return int(self.manifest.serve["max_model_len"])

    @property
    def compiled(self) -> int:
        """Graphs compiled by this process; loading an artifact leaves it at what it was."""
        return compiles.count()


def find_artifacts(argument: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The directory to load: the argument, else ``NEURON_COMPILED_ARTIFACTS``.

    Either may be the name of an artifact in a store; see :func:`~.store.names.directory_called`.

    Raises
    ------
    UsageError
        Neither names one.
    MissError
        One names several.
    """
    environ = os.environ if environ is None else environ
    chosen = argument or environ.get(ARTIFACTS_VARIABLE)
    if not chosen:
        raise UsageError(
            "no artifact directory given",
            hint=f"pass --artifacts DIR or set {ARTIFACTS_VARIABLE}; "
            "`neuron-artifacts compile` prints the directory it made",
        )
    return directory_called(Path(chosen).expanduser(), environ)


def load_artifact(
    directory: Path,
    *,
    verify: Depth = "full",
    threads: int | None = None,
    warm_up: bool = True,
    observe: Observer = ignore,
) -> LoadedArtifact:
    """Verify an artifact and load it.

    See :func:`verify_trusted` for what is checked, and raised, before anything is loaded.
    """
    if threads is not None and not (isinstance(threads, int) and threads > 0):
        raise UsageError(f"threads must be a whole number from 1 on, got {threads!r}")
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def end(phase: str) -> None:
        nonlocal began
        now = time.monotonic()
        seconds[phase] = round(now - began, 4)
        began = now
        observe(PhaseEnded(phase, seconds[phase]))

    from neuron_artifacts.runtime.tokenizer import Tokenizer

    with ExitStack() as held:
        held.enter_context(hold(directory.absolute()))
        manifest = verify_trusted(directory, verify, observe)
        end("verify")
        tokenizer = Tokenizer.load(directory)
        backend = backend_of_artifact(manifest.backend)
        runner = backend.open_runner(directory, manifest, threads=threads)
        # Whatever becomes of the runner, the artifact is held as long as it exists.
        weakref.finalize(runner, held.pop_all().close)
    generation = directory / GENERATION_NAME
    config = read_json(generation) if generation.is_file() else {}
    end("load")
    if warm_up:
        runner.warm_up()
        end("warm-up")
    return LoadedArtifact(directory, manifest, runner, tokenizer, config, seconds)


def verify_trusted(directory: Path, depth: Depth = "full", observe: Observer = ignore) -> Manifest:
    """What comes before loading: the files hold, and the policy admits who signed them.

    With ``full`` each file is hashed once on a machine; afterwards its remembered digest is enough
    as long as inode, size and mtime stay the same. What this machine built or pulled was hashed as
    it was written. A signature covers bytes by their digests, so where the policy asks for one,
    no less than ``full`` is done.

    Raises
    ------
    MissError, CorruptError, IncompatibleError
        The verdict on the directory, when it is not ``ok``.
    UntrustedError
        The policy asks for a signature that is not there.
    """
    required = load_policy().required_at(directory)
    if required and depth != "full":
        observe(Note("the policy asks for a signature, so every byte is checked"))
        depth = "full"
    manifest = _verify(directory, depth, observe)
    trusted = require_trust(directory, required)
    if trusted:
        observe(Note(f"signed by {trusted}"))
    return manifest


def _verify(directory: Path, depth: Depth, observe: Observer) -> Manifest:
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        observe(BytesMoved("verifying", done, 0))

    verdict = check_artifact(directory, depth, digests=DigestCache(), on_bytes=on_bytes)
    if verdict.status != "ok" or verdict.manifest is None:
        raise verdict.error()
    return verdict.manifest
