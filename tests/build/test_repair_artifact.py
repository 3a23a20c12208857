"""Damaged artifacts are fetched, rebuilt or set aside; nothing is ever deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.build import compile_artifact
from neuron_artifacts.build.repair import repair_artifact, repair_command
from neuron_artifacts.errors import StoreError
from neuron_artifacts.key import digest_of
from neuron_artifacts.spec import resolve_spec
from neuron_artifacts.store import LocalStore
from tests.cli.run import run
from tests.limits import no_descriptors
from tests.models import SMALL, copy_model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("repair")
    flags = {"model": str(copy_model(place / "model")), "store": str(place), **SMALL}
    flags["override_neuron_config"] = {"padding_side": "right"}
    compile_artifact(resolve_spec(flags, environ={}), environ={})
    return place


@pytest.fixture
def store(built: Path, tmp_path: Path) -> LocalStore:
    shutil.copytree(built, tmp_path / "p")
    return LocalStore(tmp_path / "p")


def damage(path: Path) -> None:
    weights = next((path / "weights").iterdir())
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)


def refuse(_flags: dict[str, Any]) -> None:
    raise StoreError("cannot be built here")


def rebuild_in(store: LocalStore) -> Any:
    return lambda flags: compile_artifact(
        resolve_spec({**flags, "store": str(store.root)}, environ={}), environ={}
    )


def test_what_holds_is_left_alone(store: LocalStore) -> None:
    (path,) = store.directories()
    assert repair_artifact(path, store, rebuild=refuse).action == "sound"


def test_what_does_not_hold_is_built_again_with_its_own_options(store: LocalStore) -> None:
    (path,) = store.directories()
    damage(path)
    assert "padding_side" in repair_command(path, verify_artifact(path, "full"))
    repair = repair_artifact(path, store, rebuild=rebuild_in(store))
    assert repair.action == "rebuilt", repair.reason
    assert store.directories() == [path]
    assert verify_artifact(path, "full").status == "ok"
    assert len(list((store.root / ".set-aside").iterdir())) == 1


def test_a_remote_copy_is_preferred(store: LocalStore, built: Path) -> None:
    (path,) = store.directories()
    damage(path)

    def fetch(key: str) -> Path:
        return Path(shutil.copytree(LocalStore(built).path(key), path))

    assert repair_artifact(path, store, rebuild=refuse, fetch=fetch).action == "fetched"
    assert verify_artifact(path, "full").status == "ok"


def test_without_one_it_is_rebuilt_from_what_is_left(store: LocalStore) -> None:
    (path,) = store.directories()
    damage(path)
    repair = repair_artifact(path, store, rebuild=rebuild_in(store), fetch=lambda _: None)
    assert repair.action == "rebuilt", repair.reason
    assert verify_artifact(path, "full").status == "ok"


def test_what_cannot_be_repaired_is_set_aside(store: LocalStore) -> None:
    (path,) = store.directories()
    damage(path)
    repair = repair_artifact(path, store, rebuild=refuse)
    assert (repair.action, repair.reason) == ("quarantined", "cannot be built here")
    assert repair.now_at
    assert (repair.now_at / "artifact.json").is_file()
    assert store.directories() == []


def test_what_lies_outside_the_store_is_not_moved(store: LocalStore, tmp_path: Path) -> None:
    path = store.directories()[0].rename(tmp_path / "mine")
    damage(path)
    assert repair_artifact(path, store, rebuild=refuse).action == "kept"
    assert path.is_dir()


def test_the_command_fetches_where_there_is_a_remote(store: LocalStore, tmp_path: Path) -> None:
    (path,) = store.directories()
    remote = f"file://{tmp_path}/remote"
    assert run("push", path, "--to", remote, cwd=tmp_path).code == 0
    damage(path)
    shutil.rmtree(tmp_path / "p" / "model", ignore_errors=True)
    again = run("repair", "--all", "--remote", remote, "--json", cwd=tmp_path / "p")
    assert again.code == 0, again.err
    assert again.data["artifacts"][0]["action"] == "fetched"
    assert verify_artifact(path, "full").status == "ok"


def test_what_a_newer_release_wrote_is_left_alone(store: LocalStore) -> None:
    (path,) = store.directories()
    manifest = path / "artifact.json"
    body = json.loads(manifest.read_bytes())
    body.pop("manifest_sha256")
    body["schema"] = 99
    manifest.unlink()
    manifest.write_text(json.dumps({**body, "manifest_sha256": digest_of(body)}) + "\n")
    before = manifest.read_bytes()
    repair = repair_artifact(path, store, rebuild=refuse)
    assert repair.action == "kept"
    assert "schema 99" in (repair.reason or "")
    assert manifest.read_bytes() == before


def test_the_command(store: LocalStore) -> None:
    (path,) = store.directories()
    assert run("repair", "--all", cwd=store.root.parent).code == 0
    damage(path)
    result = run("repair", path.name[:12], "--json", cwd=store.root.parent)
    assert result.code == 0, result.err
    assert result.data["artifacts"][0]["action"] == "rebuilt"
    (path / "artifact.json").unlink()
    result = run("repair", "--all", "--json", cwd=store.root.parent)
    assert result.code == 5
    assert result.data["artifacts"][0]["action"] == "quarantined"
    assert "--model" in run("repair", "--help").out


def test_what_cannot_be_read_is_left_as_it_is(store: LocalStore) -> None:
    (path,) = store.directories()
    with no_descriptors():
        repair = repair_artifact(path, store, rebuild=refuse)
    assert (repair.action, repair.now_at) == ("unreadable", None)
    assert "Too many open files" in (repair.reason or "")
    assert verify_artifact(path, "full").status == "ok"
