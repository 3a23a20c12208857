"""A directory of a compiler's own, the same one for the same graphs whenever that is possible.

NxD Inference empties its work directory when it begins and puts that directory's name into the
key of Neuron's persistent cache: so no two builds may share one, and one build should get the
same one again.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron_artifacts._files import user_cache_dir
from neuron_artifacts.store.owner import Owner
from neuron_artifacts.store.staging import storing

_TRIES = 64


@contextmanager
def workspace(digest: str, root: Path | None = None) -> Iterator[Path]:
    """An empty directory named after ``digest``, held until the block ends.

    Removed when the block succeeds. After a failure it stays for whoever wants to read the
    compiler's log, until the next build of the same graphs takes it over.
    """
    root = root or user_cache_dir() / "work"
    with storing(root):
        root.mkdir(parents=True, exist_ok=True)
    with _hold(root, digest[:32]) as path:
        with storing(path):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True, exist_ok=True)
        yield path
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _hold(root: Path, name: str) -> Iterator[Path]:
    from filelock import FileLock, Timeout

    for number in range(_TRIES):
        path = root / (f"{name}-{number}" if number else name)
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        except (OSError, NotImplementedError):
            break
        try:
            yield path
        finally:
            lock.release()
        return
    # Where locks do not work only a name that nobody else has is safe.
    yield root / f"{name}-{Owner.current().token}-{secrets.token_hex(4)}"
