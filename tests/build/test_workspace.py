"""The compiler's own directory: the same again, never shared, kept after a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_artifacts.build.workspace import workspace

DIGEST = "ab" * 32


def test_it_is_the_same_one_again_and_empty(tmp_path: Path) -> None:
    with workspace(DIGEST, tmp_path) as first:
        (first / "left").write_text("x")
    assert not first.exists()
    with workspace(DIGEST, tmp_path) as second:
        assert second == first
        assert list(second.iterdir()) == []
    with workspace("cd" * 32, tmp_path) as other:
        assert other != first


def test_two_builds_at_once_get_two(tmp_path: Path) -> None:
    with workspace(DIGEST, tmp_path) as first, workspace(DIGEST, tmp_path) as second:
        (first / "mine").write_text("x")
        assert first != second
        assert list(second.iterdir()) == []
    with workspace(DIGEST, tmp_path) as again:
        assert again == first


def test_a_failure_leaves_the_log_until_the_next_build(tmp_path: Path) -> None:
    path = tmp_path / DIGEST[:32]
    with pytest.raises(FileExistsError), workspace(DIGEST, tmp_path):
        _write_twice(path / "log")
    assert (path / "log").read_text() == "why"
    with workspace(DIGEST, tmp_path) as again:
        assert again == path
        assert not (again / "log").exists()


def _write_twice(path: Path) -> None:
    path.write_text("why")
    path.open("x")


def test_without_locks_every_build_has_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with workspace(DIGEST, tmp_path) as first, workspace(DIGEST, tmp_path) as second:
        assert first != second
        assert first.is_dir()
        assert second.is_dir()
