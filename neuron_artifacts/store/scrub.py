"""Read every byte of every artifact again, in parallel, and go on where an earlier run stopped.

What a machine remembers about digests is not asked: this looks for bits that changed under an
unchanged mtime. A checkpoint has one line per finished artifact, so a run that is killed costs
only what it was reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from neuron_artifacts._files import read_regular, user_cache_dir
from neuron_artifacts.artifact import MANIFEST_NAME, Verdict, verify_artifact
from neuron_artifacts.artifact.manifest import MAX_MANIFEST_BYTES
from neuron_artifacts.store.leases import hold

CHECKPOINT_SECONDS = 7 * 86400
"""An unfinished run that is older is begun anew."""


@dataclass(frozen=True)
class ScrubResult:
    """The verdict on one artifact; ``resumed`` says that an earlier, unfinished run gave it."""

    path: Path
    status: str
    problems: tuple[str, ...]
    size: int
    resumed: bool = False


@dataclass(frozen=True)
class _Line:
    path: str
    manifest: str
    status: str
    problems: list[str]
    size: int
    at: float


def scrub(
    paths: Sequence[Path],
    *,
    jobs: int,
    checkpoint: Path,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[ScrubResult]:
    """Verify artifacts to the last byte, each as it is done; the checkpoint goes with the last."""
    done = _read(checkpoint)
    todo = []
    for path in paths:
        line = done.get(str(path))
        if line and line.manifest == _manifest_digest(path) and line.status == "ok":
            yield ScrubResult(path, line.status, tuple(line.problems), line.size, resumed=True)
        else:
            todo.append(path)
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        try:
            futures = [pool.submit(_verify, path, on_bytes) for path in todo]
            for future in as_completed(futures):
                verdict, digest = future.result()
                result = _result(verdict)
                _append(checkpoint, result, digest)
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    with suppress(OSError):
        checkpoint.unlink()


def checkpoint_of(root: Path) -> Path:
    """Where an unfinished run over a store is remembered."""
    name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    return user_cache_dir() / "scrubs" / f"{name}.jsonl"


def _verify(path: Path, on_bytes: Callable[[int], None] | None) -> tuple[Verdict, str]:
    with hold(path, is_use=False):
        digest = _manifest_digest(path)
        return verify_artifact(path, "full", on_bytes=on_bytes), digest


def _result(verdict: Verdict) -> ScrubResult:
    size = verdict.manifest.total_bytes if verdict.manifest else 0
    return ScrubResult(verdict.path, verdict.status, verdict.problems, size)


def _manifest_digest(path: Path) -> str:
    try:
        data = read_regular(path / MANIFEST_NAME, MAX_MANIFEST_BYTES)
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(data).hexdigest()


def _append(checkpoint: Path, result: ScrubResult, digest: str) -> None:
    line = _Line(
        str(result.path), digest, result.status, list(result.problems), result.size, time.time()
    )
    with suppress(OSError):  # without it a later run only starts from the beginning
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with checkpoint.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def _read(checkpoint: Path) -> dict[str, _Line]:
    found = {}
    try:
        lines = checkpoint.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    for text in lines:
        with suppress(ValueError, TypeError):  # the last line of a killed run
            line = _Line(**json.loads(text))
            if abs(time.time() - line.at) <= CHECKPOINT_SECONDS:
                found[line.path] = line
    return found
