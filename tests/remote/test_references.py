"""Weights that the hub has are named, not stored: by the command line, over a hub of real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts._files import hash_file
from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.errors import CorruptError
from neuron_artifacts.remote.manifest import parse_remote_manifest
from neuron_artifacts.store import LocalStore
from tests.cli.run import Result, run
from tests.model.fake_hub import FakeHub
from tests.models import GOLDEN, SMALL, TINY
from tests.remote.samples import make_artifact

FLAGS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", value)]
REPO, TOKEN = "org/tiny", "hf_averysecrettoken"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A private repository with the model."""
    with FakeHub() as served:
        files = {p.name: p.read_bytes() for p in (GOLDEN / TINY / "model").iterdir()}
        served.commit(REPO, files, private=True, readers={TOKEN})
        yield served


@pytest.fixture
def pushed(hub: FakeHub, tmp_path: Path) -> Path:
    """An artifact of the model, pushed without its weights."""
    built = on_hub(hub, tmp_path, "compile", REPO, *FLAGS, "--json")
    assert built.code == 0, built.err
    path = Path(built.data["path"])
    sent = on_hub(
        hub, tmp_path, "push", path, "--to", remote(tmp_path), "--weights", "by-reference", "--json"
    )
    assert sent.code == 0, sent.err
    (report,) = sent.data["pushed"]
    files = {file.path: file.size for file in read_manifest(path).files}
    assert report["referenced_bytes"] == files[f"weights/{WEIGHTS}"]
    provenance = (path / "artifact.provenance.json").stat().st_size
    assert report["sent_bytes"] == sum(files.values()) - report["referenced_bytes"] + provenance
    return path


def on_hub(hub: FakeHub, place: Path, *arguments: object, home: str = "hf") -> Result:
    result = run(
        *arguments, cwd=place, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN,
        HF_HOME=str(place / home),
    )  # fmt: skip
    assert TOKEN not in result.out + result.err
    return result


def remote(place: Path) -> str:
    return f"file://{place}/remote"


def pull(hub: FakeHub, place: Path, key: str) -> Result:
    """On another machine, whose hub cache is empty."""
    source = ("--from", remote(place), "--store", place / "other", "--json")
    return on_hub(hub, place, "pull", key, *source, home="other-hf")


def test_weights_stay_at_the_hub_and_come_from_there(
    hub: FakeHub, pushed: Path, tmp_path: Path
) -> None:
    digest = hash_file(pushed / "weights" / WEIGHTS)
    assert not (tmp_path / "remote/cas/sha256" / digest).exists()
    manifest = json.loads((tmp_path / f"remote/artifacts/{pushed.name}.json").read_bytes())
    commit = hub.repositories[REPO].refs["main"]
    assert manifest["references"] == {digest: {"repo": REPO, "revision": commit, "path": WEIGHTS}}
    assert TOKEN not in json.dumps(manifest)
    pulled = pull(hub, tmp_path, pushed.name)
    assert pulled.code == 0, pulled.err
    (report,) = pulled.data["pulled"]
    assert report["hub_bytes"] == (pushed / "weights" / WEIGHTS).stat().st_size
    there = Path(report["path"])
    assert verify_artifact(there, "full").status == "ok"
    assert hash_file(there / "weights" / WEIGHTS) == digest
    again = on_hub(hub, tmp_path, "push", pushed, "--to", remote(tmp_path))
    assert again.code == 0
    assert "is already in" in again.out


def test_other_bytes_at_the_hub_are_refused(hub: FakeHub, pushed: Path, tmp_path: Path) -> None:
    commit = hub.repositories[REPO].refs["main"]
    files = hub.repositories[REPO].commits[commit]
    files[WEIGHTS] = files[WEIGHTS][:-1] + bytes([files[WEIGHTS][-1] ^ 1])
    pulled = pull(hub, tmp_path, pushed.name)
    assert pulled.code == 5, pulled.err
    assert "other bytes" in pulled.err
    assert LocalStore(tmp_path / "other").directories() == []


def test_a_hub_that_lost_them_is_said(hub: FakeHub, pushed: Path, tmp_path: Path) -> None:
    hub.repositories.clear()
    pulled = pull(hub, tmp_path, pushed.name)
    assert pulled.code == 1
    assert REPO in pulled.err
    assert LocalStore(tmp_path / "other").directories() == []


def test_weights_that_the_hub_does_not_have_are_pushed_and_named(
    hub: FakeHub, tmp_path: Path
) -> None:
    commit = hub.repositories[REPO].refs["main"]
    model = {"name": "m", "source": REPO, "revision": commit}
    artifact = make_artifact(tmp_path / "a", shards=2, model=model)
    target = ("--to", remote(tmp_path), "--weights", "by-reference")
    told = on_hub(hub, tmp_path, "push", artifact, *target)
    assert told.code == 0, told.err
    assert "2 weight files are not on the hub and are pushed whole" in told.err
    folder = make_artifact(tmp_path / "b", n=1)
    refused = on_hub(hub, tmp_path, "push", folder, *target)
    assert refused.code == 7
    assert "came from a folder" in refused.err
    assert (
        on_hub(hub, tmp_path, "push", folder, "--to", remote(tmp_path), "--weights", "x").code == 2
    )


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../../etc/passwd"}, {"path": "/etc/passwd"}, {"path": 3}, {"repo": "../x"},
        {"repo": "a/b/c"}, {"repo": "http://x"}, {"revision": "main"}, {"revision": "../main"},
        {"more": "x"},
    ],
)  # fmt: skip
def test_references_that_lead_elsewhere(change: dict[str, Any], tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1)
    reference = {"repo": "org/tiny", "revision": "0" * 40, "path": "model.safetensors"}
    body = {
        "schema": 1, "publication": "p", "sidecars": [],
        "artifact": (artifact / "artifact.json").read_text(),
        "references": {"1" * 64: reference},
    }  # fmt: skip
    sound = parse_remote_manifest(json.dumps(body).encode(), artifact.name, "there")
    assert sound.references["1" * 64].repo == "org/tiny"
    body["references"] = {"1" * 64: {**reference, **change}}
    with pytest.raises(CorruptError):
        parse_remote_manifest(json.dumps(body).encode(), artifact.name, "there")
