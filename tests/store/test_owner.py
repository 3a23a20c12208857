"""Whether a process lives is told from not knowing: nothing of the living is collected."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_artifacts.store import owner as owners
from neuron_artifacts.store.owner import Owner, is_abandoned, is_alive
from tests.limits import no_descriptors

ME = Owner.current()
DEAD = replace(ME, pid=2**22 + 1)  # above the largest number of a process (proc(5), pid_max)
REPLACED = replace(ME, started=1)


def test_the_living_and_the_dead() -> None:
    assert [is_alive(each) for each in (ME, DEAD, REPLACED)] == [True, False, False]


def test_a_process_that_cannot_be_looked_at_may_live(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where /proc hides other users' processes, or a read of it fails."""
    monkeypatch.setattr(owners, "_started", lambda pid: ME.started if pid == "self" else None)
    assert [is_alive(each) for each in (ME, DEAD)] == [None, False]
    working = tmp_path / f"key-{ME.token}-0"
    working.mkdir()
    assert not is_abandoned(working)


def test_out_of_descriptors_nobody_is_dead(tmp_path: Path) -> None:
    working = tmp_path / f"key-{ME.token}-0"
    working.mkdir()
    with no_descriptors():
        assert not is_abandoned(working)
        token = Owner.current().token
    named = tmp_path / f"key-{token}-0"
    named.mkdir()
    assert not is_abandoned(named), "only time tells"
    os.utime(named, (1, 1))
    assert is_abandoned(named)
