"""Events as those who watch a build see them, by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuron_artifacts.events import BytesMoved, Event, GraphChanged, Note, PhaseEnded
from neuron_artifacts.worker.events import Stopwatch

Told = tuple[float, str, Mapping[str, Any]]


def watch(told: list[Told]) -> list[Event]:
    """What an observer sees of events that a worker tells at given times."""
    now, seen = [0.0], list[Event]()
    stopwatch = Stopwatch(lambda event: seen.append(event.as_event()), lambda: now[0])
    for moment, name, fields in told:
        now[0] = moment
        stopwatch.see(name, fields)
    now[0] = 100.0
    stopwatch.end_phase()
    stopwatch.end_phase()
    return seen


def test_phases_last_until_the_next_one_and_the_last_to_the_end() -> None:
    assert watch([(1, "phase", {"name": "trace"}), (4, "phase", {"name": "compile"})]) == [
        PhaseEnded("trace", 3.0),
        PhaseEnded("compile", 96.0),
    ]
    assert watch([]) == []


def test_graphs_are_timed_each_for_itself() -> None:
    def graph(bucket: int, state: str, **more: float) -> Mapping[str, Any]:
        return {"phase": "context_encoding", "bucket": bucket, "state": state, **more}

    told: list[Told] = [
        (1, "graph", graph(128, "compiling")),
        (2, "graph", graph(256, "compiling")),
        (5, "graph", graph(128, "compiled")),
        (9, "graph", graph(256, "compiled", seconds=0.5)),
        (9, "graph", graph(512, "compiled")),
    ]
    assert watch(told) == [
        GraphChanged("context_encoding", 128, "compiling"),
        GraphChanged("context_encoding", 256, "compiling"),
        GraphChanged("context_encoding", 128, "compiled", 4.0),
        GraphChanged("context_encoding", 256, "compiled", 0.5),
        GraphChanged("context_encoding", 512, "compiled"),
    ]


def test_the_rest_is_passed_on() -> None:
    told: list[Told] = [
        (1, "progress", {"what": "weights", "done": 1, "total": 3}),
        (2, "warning", {"text": "slow"}),
    ]
    assert watch(told) == [BytesMoved("weights", 1, 3), Note("slow")]
