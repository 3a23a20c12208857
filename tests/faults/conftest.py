"""A ledger of what was done to the product and what became of it, printed after the run."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable

import pytest

RUNS = int(os.environ.get("FAULT_RUNS", "1"))
"""How many times over the random faults are tried; ``make faults`` asks for many."""
SEED = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)

_ledger: Counter[tuple[str, str]] = Counter()
_figures: dict[str, str] = {}

Record = Callable[[str, str], None]
Measure = Callable[[str, str], None]


@pytest.fixture
def record() -> Record:
    """Note one fault and its outcome."""

    def note(fault: str, outcome: str) -> None:
        _ledger[fault, outcome] += 1

    return note


@pytest.fixture
def measure() -> Measure:
    """Note a figure of a load test: its name, and the value with its unit."""
    return _figures.__setitem__


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own; the seed is printed with the table."""
    return random.Random(f"{SEED} {request.node.nodeid}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ledger:
        return
    terminalreporter.section(f"faults (FAULT_SEED={SEED} FAULT_RUNS={RUNS})")
    write = terminalreporter.write_line
    write("| fault | outcome | runs |")
    write("|---|---|---|")
    for (fault, outcome), count in sorted(_ledger.items()):
        write(f"| {fault} | {outcome} | {count} |")
    if _figures:
        write("\n| load | figure |\n|---|---|")
        for name, value in sorted(_figures.items()):
            write(f"| {name} | {value} |")
