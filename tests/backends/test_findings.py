"""Findings: their order, and a refusal that holds every error."""

from __future__ import annotations

import pytest

from neuron_artifacts.backends.findings import Finding, order, refuse
from neuron_artifacts.errors import ExitCode, RefusedError

NOTE, WARNING = Finding("note", "graphs", "8 graphs"), Finding("warning", "tight", "so so")
FIRST, SECOND = Finding("error", "hbm", "too much", "less"), Finding("error", "disk", "full")


def test_the_worst_comes_first_and_each_once() -> None:
    assert order([NOTE, FIRST, WARNING, FIRST, SECOND]) == (FIRST, SECOND, WARNING, NOTE)


def test_nothing_is_refused_without_an_error() -> None:
    refuse([NOTE, WARNING])


def test_a_refusal_holds_every_error() -> None:
    with pytest.raises(RefusedError) as caught:
        refuse([FIRST, SECOND, WARNING, NOTE])
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.message.splitlines() == [
        "preflight refuses 2 things:", "  too much [hbm]; less", "  full [disk]",
    ]  # fmt: skip
