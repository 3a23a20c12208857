"""What a person sees on a terminal: a table of graphs that updates in place, and colour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.run import run_on_terminal
from tests.models import SMALL, copy_model

FLAGS = [str(t) for name, value in SMALL.items() for t in (f"--{name.replace('_', '-')}", value)]
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3\d")


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_each_graph_is_shown_with_its_state_and_seconds(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    copy_model(tmp_path / "model")
    code, shown = run_on_terminal(tmp_path, "compile", "model", *FLAGS, **environ)
    assert code == 0
    assert re.search(r"✓\s+context_encoding\s+32\s+compiled\s+\d", shown)
    assert re.search(r"…\s+\w+\s+\d+\s+compiling", shown)
    assert "verdict   miss" in shown
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l"), "the cursor comes back"


def test_colour_is_for_terminals_that_want_it(tmp_path: Path) -> None:
    for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        code, shown = run_on_terminal(tmp_path, "compile", "./absent", **environ)
        assert code == 1
        assert bool(COLOUR.search(shown)) is coloured, environ
