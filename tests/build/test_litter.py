"""``gc`` says what lies about before it goes, and touches nothing that is worked on."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_artifacts.build import workspace as workspaces
from neuron_artifacts.build.workspace import workspace
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.owner import Owner
from tests.artifact.artifacts import publish
from tests.cli.run import run

DEAD = replace(Owner.current(), started=1)
DAY = 86400


def lay(path: Path, days: float = 0) -> Path:
    """Two hundred kilobytes, untouched for so many days."""
    file = path if path.parent.name == ".incoming" else path / "part"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * 200_000)
    stamp = time.time() - days * DAY
    for each in (file, path):
        os.utime(each, (stamp, stamp))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURON_ARTIFACTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_litter_of_every_kind_is_announced_and_then_removed(tmp_path: Path, cache: Path) -> None:
    publish(tmp_path)
    root = LocalStore(tmp_path).root
    litter = {
        lay(root / ".staging" / f"a-{DEAD.token}-1"),
        lay(root / ".trash" / f"b-{DEAD.token}-1"),
        lay(root / ".incoming" / ("c" * 64), days=8),
        lay(root / ".incoming" / f"{'d' * 64}.{DEAD.token}-1", days=8),
        lay(cache / "work" / ("e" * 32), days=8),
    }
    mine = Owner.current().token
    with workspace("f" * 64, cache / "work") as busy:
        kept = {
            lay(root / ".staging" / f"a-{mine}-1", days=8),
            lay(root / ".incoming" / f"{'d' * 64}.{mine}-1", days=8),
            lay(root / ".incoming" / ("9" * 64), days=6),
            lay(cache / "work" / ("8" * 32), days=6),
            busy,
        }
        lay(busy, days=8)
        dry = run("gc", "--dry-run", "--json", cwd=tmp_path)
        announced = {Path(path) for path in dry.data["litter"]}
        assert litter <= announced <= litter | {busy}
        assert dry.data["litter_bytes"] >= 5 * 200_000
        assert dry.err.count("abandoned, frees") == len(announced)
        assert all(path.exists() for path in litter | kept)
        wet = run("gc", "--json", cwd=tmp_path)
        assert "5 abandoned temporaries" in wet.err
        assert [path for path in litter if path.exists()] == []
        assert [path for path in kept if not path.exists()] == []
    assert len(LocalStore(tmp_path).directories()) == 1


@pytest.mark.parametrize(("days", "is_stale"), [(-2, False), (1, False), (8, True)])
def test_a_clock_that_jumps_by_a_day_does_not_make_work_stale(
    days: int, is_stale: bool, tmp_path: Path
) -> None:
    path = lay(tmp_path / ("a" * 32))
    found = workspaces.find_stale(tmp_path, now=time.time() + days * DAY)
    assert found == ([path] if is_stale else [])


def test_what_killed_writers_of_small_files_left(tmp_path: Path, cache: Path) -> None:
    artifact = publish(tmp_path)
    root = artifact.parent
    left = [
        root / f".clock-{DEAD.token}-0",
        root / ".locks" / ".key.holder.4711.00c0ffee",
        root / ".failed" / ".graphs.json.4711.00c0ffee",
        artifact / ".artifact.sig.json.4711.00c0ffee",
        cache / "digests" / ".fe00-1.json.4711.00c0ffee",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1, 1))
    young = root / ".locks" / ".key.holder.4712.00c0ffee"
    young.touch()
    assert run("gc", "--store", tmp_path).code == 0
    assert [path for path in left if path.exists()] == []
    assert young.exists()
