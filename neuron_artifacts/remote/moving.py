"""Bytes on their way: hashed, counted, several files at once, again after a passing failure."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from neuron_artifacts._files import CHUNK
from neuron_artifacts.errors import CorruptError, RemoteError
from neuron_artifacts.events import BytesMoved, Observer

AT_ONCE = 8
"""Files in flight."""

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try."""

LONGEST_PAUSE = 120.0
"""A store that asks to wait longer than this is given up."""

T = TypeVar("T")
U = TypeVar("U")


def in_parallel(work: Callable[[U], T], items: Iterable[U]) -> list[T]:
    """Apply ``work`` to each item, a bounded number at once; the first failure ends it."""
    items = list(items)
    with ThreadPoolExecutor(max(1, min(AT_ONCE, len(items)))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def persistently(call: Callable[[], T], *, moved: Callable[[], int] = lambda: 0) -> T:
    """Call, and again after a pause where the failure may pass.

    ``moved`` counts bytes: as long as each try gets further, there is always another.
    """
    tries, before = 0, moved()
    while True:
        try:
            return call()
        except RemoteError as error:
            if moved() > before:
                tries, before = 0, moved()
            wait = pause_before(error, tries)
            if wait is None:
                raise
            tries += 1
            time.sleep(wait)


def pause_before(error: RemoteError, tries: int) -> float | None:
    """Seconds to wait before the next try, or ``None`` if there should be none."""
    if not error.passing or tries >= len(PAUSES):
        return None
    if error.after is not None:
        return error.after if error.after <= LONGEST_PAUSE else None
    # Many machines start at once: without jitter they would all come back at once, too.
    return PAUSES[tries] * random.uniform(0.5, 1.0)  # noqa: S311


def read_checked(path: Path, sha256: str, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """A file's bytes, hashed on the way.

    The last piece is held back until the digest holds, so that a store which is told the length
    beforehand can never take other bytes for whole.

    Raises
    ------
    CorruptError
        The file holds other bytes.
    """
    digest, held = hashlib.sha256(), b""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if held:
                yield held
                on_bytes(len(held))
            held = chunk
    if digest.hexdigest() != sha256:
        raise CorruptError(
            f"{path} has other bytes than its digest says; nothing of it was published",
            hint="neuron-artifacts repair shows how to build it again",
        )
    if held:
        yield held
        on_bytes(len(held))


class Meter:
    """Adds up what all threads move, and tells it now and then."""

    _INTERVAL = 0.1

    def __init__(self, what: str, total: int, observe: Observer) -> None:
        self._what, self._total, self._observe = what, total, observe
        self._lock = threading.Lock()
        self._told = 0.0
        self.done = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now - self._told >= self._INTERVAL or self.done >= self._total:
                self._told = now
                self._observe(BytesMoved(self._what, min(self.done, self._total), self._total))
