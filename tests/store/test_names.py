"""An artifact by any of its names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from neuron_artifacts.artifact import MANIFEST_NAME, read_manifest
from neuron_artifacts.errors import MissError, UsageError
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.names import choose_key, directory_called, find_artifact, find_called
from tests.artifact.artifacts import publish

MD5 = "302fdb8c07ace8605c4430094da27814"


def publish_as(base: Path, md5: str, **graphs: str) -> Path:
    path = publish(base, **graphs)
    manifest = read_manifest(path)
    changed = dataclasses.replace(manifest, serve={**manifest.serve, "md5": md5})
    (path / MANIFEST_NAME).write_bytes(changed.dump())
    return path


def test_key_beginning_md5_and_directory(tmp_path: Path) -> None:
    one, other = publish_as(tmp_path, MD5), publish(tmp_path, phase="other")
    store = LocalStore(tmp_path)
    for name in (one.name, one.name[:12], MD5):
        assert find_called(store, name) == [one]
        assert find_artifact(store, name) == one
        assert directory_called(Path(name), {"NEURON_ARTIFACTS_STORE": str(tmp_path)}) == one
        assert directory_called(store.root / name) == one
    assert directory_called(other) == other
    assert find_called(store, MD5[:12]) == [], "an md5 is known whole"


def test_what_exists_is_meant_itself(tmp_path: Path) -> None:
    publish_as(tmp_path, MD5)
    (theirs := tmp_path / MD5).mkdir()
    assert directory_called(theirs) == theirs
    assert directory_called(tmp_path / "elsewhere" / MD5) == tmp_path / "elsewhere" / MD5


@pytest.mark.parametrize("name", ["nothing", "abc", MD5, "../x", "."])
def test_what_is_found_nowhere_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    publish(tmp_path)
    environ = {"NEURON_ARTIFACTS_STORE": str(tmp_path)}
    assert directory_called(Path(name), environ) == Path(name)


def test_several_of_one_name_are_listed(tmp_path: Path) -> None:
    paths = [publish_as(tmp_path, MD5, phase=phase) for phase in ("one", "other")]
    store = LocalStore(tmp_path)
    for find in (lambda: directory_called(store.root / MD5), lambda: find_artifact(store, MD5)):
        with pytest.raises(UsageError, match="has 2 artifacts called") as caught:
            find()
        assert all(path.name[:16] in str(caught.value) for path in paths)


@pytest.mark.parametrize("name", ["", "abc", "zz", "ABCD", "0000", "0" * 64, MD5, "./x", ".", "*"])
def test_what_is_no_artifact_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    publish(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissError):
        find_artifact(LocalStore(tmp_path / "s"), name)


def test_a_directory_is_meant_by_its_path_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    """What lost its manifest must still be named, to be repaired."""
    path, link = publish(tmp_path, phase="one"), tmp_path / "link"
    link.symlink_to(path)
    (path / MANIFEST_NAME).unlink()
    assert find_artifact(LocalStore(tmp_path / "elsewhere"), str(path)) == path
    assert find_artifact(LocalStore(tmp_path / "elsewhere"), str(link)) == path


@pytest.mark.parametrize(
    ("name", "keys", "error"),
    [
        ("abcd", ["abcd1"], None),
        ("abcd", [], MissError),
        ("abc", ["abcd1"], MissError),
        ("nothing", [], MissError),
        ("abcd", ["abcd1", "abcd2"], UsageError),
    ],
)
def test_one_key_is_chosen_or_said_why_none(
    name: str, keys: list[str], error: type[Exception] | None
) -> None:
    if error is None:
        assert choose_key(name, keys, "here") == keys[0]
        return
    with pytest.raises(error):
        choose_key(name, keys, "here")
