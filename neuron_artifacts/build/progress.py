"""Time and bytes, counted while a build runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from neuron_artifacts.events import BytesMoved, Observer, PhaseEnded


@dataclass
class Clock:
    """Seconds per phase, told to the observer as they end."""

    observe: Observer
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 4)
        self.observe(PhaseEnded(name, self.seconds[name]))


class ByteReport:
    """Adds bytes up over files and threads."""

    def __init__(self, what: str, total: int, observe: Observer) -> None:
        self._what, self._total, self._observe = what, total, observe
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._observe(BytesMoved(self._what, self._done, self._total))
