"""What is shown while bytes move: how many, how fast, and how long it will take."""

from __future__ import annotations

import pytest

from neuron_artifacts.cli import _progress
from neuron_artifacts.cli._progress import Flow, _bytes_line, _duration
from neuron_artifacts.events import BytesMoved

MB = 1_000_000


def rates(*moments: tuple[float, int]) -> list[float | None]:
    flow = Flow()
    return [flow.rate(BytesMoved("pulling", done, 1000 * MB), now) for now, done in moments]


def test_a_rate_needs_two_moments() -> None:
    assert rates((0.0, 0)) == [None]
    assert rates((0.0, 0), (0.0, 5)) == [None, None]
    assert rates((0.0, 0), (2.0, 10)) == [None, 5.0]


def test_a_rate_follows_the_last_seconds() -> None:
    """A network that has become slow is told as slow, whatever it was before."""
    moments = [(float(t), 100 * t) for t in range(11)]
    moments += [(float(10 + t), 1000 + t) for t in range(1, 21)]
    told = rates(*moments)
    assert told[10] == 100.0
    assert told[-1] == pytest.approx(1.0)


def test_another_file_or_a_new_beginning_starts_the_rate_anew() -> None:
    flow = Flow()
    flow.rate(BytesMoved("hashing", 0, 10), 0.0)
    assert flow.rate(BytesMoved("hashing", 10, 10), 1.0) == 10.0
    assert flow.rate(BytesMoved("pulling", 0, 10), 2.0) is None
    assert flow.rate(BytesMoved("pulling", 8, 10), 3.0) == 8.0
    assert flow.rate(BytesMoved("pulling", 2, 10), 4.0) is None


@pytest.mark.parametrize(
    ("done", "total", "rate", "line"),
    [
        (0, 2000, None, "pushing: 0 of 2000 MB (0 %)"),
        (500, 2000, 50.0, "pushing: 500 of 2000 MB (25 %), 50.0 MB/s, 30 s left"),
        (500, 2000, 0.1, "pushing: 500 of 2000 MB (25 %), 0.1 MB/s, 4 h 10 min left"),
        (500, 2000, 0.0, "pushing: 500 of 2000 MB (25 %)"),
        (2000, 2000, 50.0, "pushing: 2000 of 2000 MB (100 %), 50.0 MB/s, 0 s left"),
        (500, 0, 50.0, "pushing: 500 MB, 50.0 MB/s"),
    ],
)
def test_the_line(done: int, total: int, rate: float | None, line: str) -> None:
    event = BytesMoved("pushing", done * MB, total * MB)
    assert _bytes_line(event, rate and rate * MB) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_how_long(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def test_lines_without_a_terminal_carry_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_progress, "HEARTBEAT_SECONDS", 0.0)
    view = _progress._LineView()
    for done in (0, MB, 2 * MB):
        view.see(BytesMoved("pulling", done, 4 * MB))
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("pulling: 2 of 4 MB (50 %), ")
    assert told[-1].endswith(" s left")
    assert "MB/s" in told[-1]
