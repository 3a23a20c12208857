"""Everything a command writes: JSON or text on standard output, talk on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}


def talk(text: str) -> None:
    """Say something to the person; never part of the data."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def write(text: str) -> None:
    """One line of data."""
    print(text, flush=True)  # noqa: T201


def print_json(value: Any) -> None:
    """The data of a command run with ``--json``."""
    write(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def styled(text: str, style: str, *, stream: Any = None) -> str:
    """``text`` in a colour, where the stream is a terminal that wants it (no-color.org)."""
    stream = stream or sys.stderr
    if not wants_colour(stream):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def wants_colour(stream: Any) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """Whether a live display makes sense there."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Plain columns, as wide as their widest entry."""
    lines = [tuple(headings), *(tuple(map(_shown, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.2f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"
