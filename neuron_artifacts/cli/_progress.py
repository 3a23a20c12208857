"""Shows a build: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from neuron_artifacts.cli import _output
from neuron_artifacts.events import (
    BytesMoved,
    Event,
    GraphChanged,
    Note,
    Observer,
    PhaseEnded,
    Waiting,
)

RATE_SECONDS = 10.0
"""What a rate is measured over: long enough to be steady, short enough to follow a network."""

HEARTBEAT_SECONDS = 30.0
"""Between two lines of the same slow thing where there is no live display."""

MARKS = {"queued": " ", "compiling": "…", "compiled": "✓", "reused": "=", "failed": "✗"}


@contextmanager
def show_progress() -> Iterator[Observer]:
    """An observer that shows what it is told until the block ends."""
    view: Any = _LiveView() if _output.is_terminal(sys.stderr) else _LineView()
    try:
        yield view.see
    finally:
        view.close()


class Flow:
    """Bytes a second of what is moving, over the last :data:`RATE_SECONDS`."""

    def __init__(self) -> None:
        self._what = ""
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, event: BytesMoved, now: float) -> float | None:
        """The rate after this event, or ``None`` before there are two to compare."""
        if event.what != self._what or (self._seen and event.done < self._seen[-1][1]):
            self._what = event.what  # something else, or a file begun again
            self._seen.clear()
        self._seen.append((now, event.done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return (event.done - before) / (now - began) if now > began else None


class _LineView:
    """One line an event; slow repeating ones only now and then."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._flow = Flow()

    def see(self, event: Event) -> None:
        if isinstance(event, GraphChanged):
            if event.state in ("compiled", "reused", "failed"):
                took = f" in {_output.seconds(event.seconds)}" if event.seconds else ""
                _output.talk(
                    f"{MARKS[event.state]} {event.phase} {event.bucket}: {event.state}{took}"
                )
        elif isinstance(event, Note):
            _output.talk(_note_line(event))
        elif isinstance(event, Waiting):
            self._now_and_then("wait", _waiting_line(event), first=True)
        elif isinstance(event, BytesMoved):
            line = _bytes_line(event, self._flow.rate(event, time.monotonic()))
            self._now_and_then(event.what, line, first=False)

    def close(self) -> None:
        pass

    def _now_and_then(self, topic: str, line: str, *, first: bool) -> None:
        now = time.monotonic()
        if topic not in self._last:
            self._last[topic] = now
            if first:
                _output.talk(line)
        elif now - self._last[topic] >= HEARTBEAT_SECONDS:
            self._last[topic] = now
            _output.talk(line)


class _LiveView:
    """A table of graphs that updates in place; rich is loaded with the first thing to show."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[str, int], GraphChanged] = {}
        self._began: dict[tuple[str, int], float] = {}
        self._status: str | None = None
        self._flow = Flow()
        self._live: Any = None

    def see(self, event: Event) -> None:
        if isinstance(event, PhaseEnded):
            self._status = None
            return
        if isinstance(event, GraphChanged):
            self._graphs[event.phase, event.bucket] = event
            self._began.setdefault((event.phase, event.bucket), time.monotonic())
            if event.state == "compiling":
                self._began[event.phase, event.bucket] = time.monotonic()
        elif isinstance(event, Note):
            self._open().console.print(_note_line(event), markup=False, highlight=False)
        elif isinstance(event, Waiting):
            self._status = _waiting_line(event)
        else:
            self._status = _bytes_line(event, self._flow.rate(event, time.monotonic()))
        self._open()

    def close(self) -> None:
        if self._live:
            self._status = None
            self._live.stop()

    def _open(self) -> Any:
        if not self._live:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, no_color=not _output.wants_colour(sys.stderr))
            self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8)
            self._live.start()
        return self._live

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = []
        if self._graphs:
            grid = Table("", "phase", "bucket", "state", "seconds", box=None, pad_edge=False)
            for (phase, bucket), graph in list(self._graphs.items()):
                took = graph.seconds
                if graph.state == "compiling":
                    took = time.monotonic() - self._began[phase, bucket]
                shown = f"{took:.1f}" if took is not None else ""
                name = _output.printable(phase, one_line=True)
                grid.add_row(MARKS[graph.state], name, str(bucket), graph.state, shown)
            parts.append(grid)
        if self._status:
            parts.append(Text(_output.printable(self._status)))
        return Group(*parts)


def _note_line(event: Note) -> str:
    return _output.printable(f"note: {event.text}", one_line=True)


def _waiting_line(event: Waiting) -> str:
    return f"waiting for {event.holder}, which builds the same key ({event.seconds:.0f} s so far)"


def _bytes_line(event: BytesMoved, rate: float | None) -> str:
    """``total`` may be unknown: zero."""
    line = f"{event.what}: {event.done / 1e6:.0f} MB"
    if event.total:
        share = 100 * event.done // event.total
        line = f"{line[:-3]} of {event.total / 1e6:.0f} MB ({share} %)"
    line += f", {rate / 1e6:.1f} MB/s" if rate else ""
    if rate and event.total:
        line += f", {_duration((event.total - event.done) / rate)} left"
    return line


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
