"""A worker's events, timed here, and how they read to those who watch a build."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.events import BytesMoved, Event, GraphChanged, Note, PhaseEnded


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker told.

    ======== ========================================= =========================================
    name     fields                                    when
    ======== ========================================= =========================================
    phase    name, seconds                             the phase has ended
    graph    phase, bucket, state; seconds if compiled state is ``compiling`` or ``compiled``
    progress what, done, total                         now and then
    warning  text                                      once
    ======== ========================================= =========================================
    """

    name: str
    fields: Mapping[str, Any]

    def as_event(self) -> Event:
        """The same in the words of :mod:`neuron_artifacts.events`."""
        get = self.fields.__getitem__
        if self.name == "phase":
            return PhaseEnded(get("name"), get("seconds"))
        if self.name == "graph":
            seconds = self.fields.get("seconds")
            return GraphChanged(get("phase"), get("bucket"), get("state"), seconds)
        if self.name == "progress":
            return BytesMoved(get("what"), get("done"), get("total"))
        return Note(get("text"))


WorkerObserver = Callable[[WorkerEvent], None]


class Stopwatch:
    """Times what a worker announces: a phase lasts until the next one, or the end of all."""

    def __init__(
        self, observe: WorkerObserver, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._observe, self._clock = observe, clock
        self._phase: tuple[str, float] | None = None
        self._graphs: dict[tuple[str, int], float] = {}

    def see(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "phase":
            self.end_phase()
            self._phase = fields["name"], self._clock()
            return
        if name == "graph":
            fields = self._timed(fields)
        self._observe(WorkerEvent(name, fields))

    def end_phase(self) -> None:
        if self._phase:
            name, began = self._phase
            self._phase = None
            fields = {"name": name, "seconds": self._clock() - began}
            self._observe(WorkerEvent("phase", fields))

    def _timed(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        graph = fields["phase"], fields["bucket"]
        if fields["state"] == "compiling":
            self._graphs[graph] = self._clock()
        elif graph in self._graphs and "seconds" not in fields:
            return {**fields, "seconds": self._clock() - self._graphs[graph]}
        return fields
