"""A directory of a compiler's own, the same one for the same graphs whenever that is possible.

NxD Inference empties its work directory when it begins and puts that directory's name into the
key of Neuron's persistent cache: so no two builds may share one, and one build should get the
same one again.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuron_artifacts._files import user_cache_dir
from neuron_artifacts.store.owner import Owner, is_alive
from neuron_artifacts.store.staging import storing

KEEP_SECONDS = 7 * 24 * 3600
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


def find_stale(root: Path | None = None, *, now: float | None = None) -> list[Path]:
    """Work directories of failed and killed builds that nobody has looked at for long."""
    root = root or user_cache_dir() / "work"
    now = time.time() if now is None else now
    found = []
    with suppress(OSError):
        for path in root.iterdir():
            with suppress(OSError):
                is_old = now - path.stat().st_mtime > KEEP_SECONDS
                if is_old and path.is_dir() and not path.is_symlink():
                    found.append(path)
    return found


def remove_stale(path: Path) -> None:
    """Remove a work directory, unless a build works in it after all."""
    from filelock import FileLock, Timeout

    owner = Owner.parse(path.name)
    if owner and is_alive(owner) is not False:
        return
    with suppress(Timeout, OSError, NotImplementedError):
        with FileLock(f"{path}.lock").acquire(timeout=0):
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
