"""A view of an artifact: what is written into it does not reach the artifact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuron_artifacts.errors import StoreError
from neuron_artifacts.runtime.vllm.view import SMALL, first_difference, open_view, take_snapshot


def make_artifact(folder: Path) -> Path:
    (folder / "weights").mkdir(parents=True)
    (folder / "neuron_config.json").write_text("{}")
    with (folder / "weights" / "tp0.safetensors").open("wb") as file:
        file.truncate(SMALL + 1)
    return folder


def test_a_view_has_every_file_and_is_gone_afterwards(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    with open_view(artifact, tmp_path / "view") as view:
        for path in artifact.rglob("*"):
            offered = view / path.relative_to(artifact)
            assert offered.is_dir() == path.is_dir()
            assert path.is_dir() or offered.read_bytes() == path.read_bytes()
        assert (view / "weights" / "tp0.safetensors").is_symlink(), "large files are not copied"
    assert not (tmp_path / "view").exists()


def test_a_view_has_no_file_but_those_that_were_verified(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    for name in ("modeling_evil.py", "weights/tp1.safetensors"):
        (artifact / name).write_text("raise SystemExit")
    listed = {"neuron_config.json", "weights/tp0.safetensors"}
    with open_view(artifact, tmp_path / "view", listed) as view:
        offered = {p.relative_to(view).as_posix() for p in view.rglob("*") if not p.is_dir()}
        assert offered == listed


def test_small_files_may_be_overwritten_and_new_ones_written(tmp_path: Path) -> None:
    """As a compile does; root may in spite of the modes, and others have to set them first."""
    artifact = make_artifact(tmp_path / "artifact")
    before = take_snapshot(artifact)
    with open_view(artifact, tmp_path / "view") as view:
        for path in (view, *view.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o700)
        (view / "neuron_config.json").write_text("{ }")
        (view / "model.pt").write_text("new")
        (view / "weights" / "tp0.safetensors").unlink()
        assert first_difference(before, take_snapshot(artifact)) is None
    assert first_difference(before, take_snapshot(artifact)) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_nothing_in_a_view_is_writable(tmp_path: Path) -> None:
    with open_view(make_artifact(tmp_path / "artifact"), tmp_path / "view") as view:
        with pytest.raises(PermissionError):
            (view / "neuron_config.json").write_text("{ }")
        with pytest.raises(PermissionError):
            (view / "new").touch()


def test_modes_of_a_view(tmp_path: Path) -> None:
    with open_view(make_artifact(tmp_path / "artifact"), tmp_path / "view") as view:
        for path in (view, view / "weights", view / "neuron_config.json"):
            assert not path.stat().st_mode & 0o222, path


@pytest.mark.parametrize("change", ["grow", "same_size", "add", "remove", "through_link"])
def test_a_snapshot_sees(change: str, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    config = artifact / "neuron_config.json"
    (tmp_path / "target").write_text("a")
    (artifact / "link").symlink_to(tmp_path / "target")
    os.utime(config, ns=(1, 1))
    os.utime(tmp_path / "target", ns=(1, 1))
    before = take_snapshot(artifact)
    assert first_difference(before, take_snapshot(artifact)) is None
    changed = {
        "grow": config, "same_size": config, "add": artifact / "new",
        "remove": config, "through_link": artifact / "link",
    }[change]  # fmt: skip
    if change == "remove":
        config.unlink()
    else:
        changed.write_text({"grow": "{   }", "same_size": "[]"}.get(change, "b"))
    assert first_difference(before, take_snapshot(artifact)) == str(changed)


def test_a_view_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError), open_view(tmp_path, tmp_path / "absent" / "view"):
        pass
