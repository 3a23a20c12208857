"""Everything a command writes: JSON or text on standard output, talk on standard error.

Names and messages come from strangers' files and servers as well. What would move the cursor, clear
the screen or turn the text around is shown as an escape, here, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}
_STYLE = rf"\x1b\[(?:{'|'.join(_CODES.values())}|0)m"
_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""C0 and C1 but tab and newline, separators of lines, directions of text, lone surrogates."""

_UNFIT = re.compile(f"({_STYLE})|([{_CONTROL}])")
_UNFIT_IN_A_LINE = re.compile(f"({_STYLE})|([\t\n{_CONTROL}])")


def talk(text: str) -> None:
    """Say something to the person; never part of the data."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


def write(text: str) -> None:
    """One line of data."""
    print(printable(text), flush=True)  # noqa: T201


def write_as_is(text: str) -> None:
    """Text that is the product itself: a program gets it unchanged, a terminal what is safe."""
    shown = printable(text) if sys.stdout.isatty() else text
    print(shown.encode("utf-8", "replace").decode(), flush=True)  # noqa: T201


def print_json(value: Any) -> None:
    """The data of a command run with ``--json``; escapes are JSON's own, so nothing is lost."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    text = re.sub(f"[{_CONTROL}]", lambda found: f"\\u{ord(found[0]):04x}", text)
    print(text, flush=True)  # noqa: T201


def printable(text: str, *, one_line: bool = False) -> str:
    """``text`` as a terminal may show it: our own styles, and nothing else that acts on it."""
    pattern = _UNFIT_IN_A_LINE if one_line else _UNFIT
    return pattern.sub(lambda found: found[1] or found[2].encode("unicode_escape").decode(), text)


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
        value = ",".join(map(str, value))
    return "-" if value is None else printable(str(value), one_line=True)


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.2f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"
