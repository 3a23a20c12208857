"""An artifact by any of its names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from neuron_artifacts.artifact import MANIFEST_NAME, read_manifest
from neuron_artifacts.errors import MissError
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.gc import find_artifact
from neuron_artifacts.store.names import directory_called, find_called
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
    with pytest.raises(MissError) as caught:
        directory_called(LocalStore(tmp_path).root / MD5)
    assert all(path.name[:16] in str(caught.value) for path in paths)
