"""A hub id instead of a folder, through the command line and over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_artifacts.artifact import read_manifest, verify_artifact
from tests.cli.run import Result, run
from tests.model.fake_hub import FakeHub
from tests.models import GOLDEN, SMALL, TINY

FLAGS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", value)]
TOKEN = "hf_averysecrettoken"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as served:
        files = {p.name: p.read_bytes() for p in (GOLDEN / TINY / "model").iterdir()}
        served.commit("org/tiny", files)
        yield served


def on_hub(hub: FakeHub, place: Path, *arguments: object, **environ: str) -> Result:
    return run(
        *arguments, cwd=place, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(place / "hf"),
        **environ,
    )  # fmt: skip


def weight_bodies(hub: FakeHub) -> int:
    """Whole downloads of weights; a range request for the header is none."""
    return sum("safetensors" in r.path and not r.span for r in hub.asked("GET", "resolve"))


def test_a_folder_and_a_hub_id_have_the_same_key(hub: FakeHub, tmp_path: Path) -> None:
    folder = run("key", GOLDEN / TINY / "model", *FLAGS).out
    assert on_hub(hub, tmp_path, "key", "org/tiny", *FLAGS).out == folder
    assert weight_bodies(hub) == 0


def test_looking_up_and_dry_runs_download_no_weights(hub: FakeHub, tmp_path: Path) -> None:
    assert on_hub(hub, tmp_path, "cache-lookup", "org/tiny", *FLAGS).code == 3
    assert on_hub(hub, tmp_path, "compile", "org/tiny", *FLAGS, "--dry-run").code == 0
    assert weight_bodies(hub) == 0


def test_compiling_downloads_once_and_links_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    result = on_hub(hub, tmp_path, "compile", "org/tiny", *FLAGS, "--json", HF_TOKEN=TOKEN)
    assert result.code == 0, result.err
    path = Path(result.data["path"])
    assert verify_artifact(path, "full").status == "ok"
    manifest = read_manifest(path)
    assert manifest.model["source"] == "org/tiny"
    assert len(str(manifest.model["revision"])) == 40
    blobs = [p for p in (tmp_path / "hf").rglob("blobs/*") if p.is_file()]
    assert any((path / "weights/model.safetensors").samefile(blob) for blob in blobs)
    assert TOKEN not in (path / "artifact.json").read_text() + result.out + result.err
    assert weight_bodies(hub) == 1


def test_a_hit_downloads_no_weights_even_on_a_new_machine(hub: FakeHub, tmp_path: Path) -> None:
    assert on_hub(hub, tmp_path, "compile", "org/tiny", *FLAGS).code == 0
    before = weight_bodies(hub)
    fresh = {"HF_HOME": str(tmp_path / "fresh"), "NEURON_ARTIFACTS_CACHE": str(tmp_path / "new")}
    environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", **fresh}
    again = run("compile", "org/tiny", *FLAGS, "--json", cwd=tmp_path, **environ)
    assert again.data["verdict"] == "hit"
    more = run(
        "compile", "org/tiny", *FLAGS, "--batch-size", "2", "--json", cwd=tmp_path, **environ
    )
    assert more.data["verdict"] == "partial"
    assert weight_bodies(hub) == before, "weights come from the artifact that has them"


def test_offline_uses_what_was_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    assert on_hub(hub, tmp_path, "compile", "org/tiny", *FLAGS).code == 0
    hub.stop()
    environ = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    assert run("cache-lookup", "org/tiny", *FLAGS, cwd=tmp_path, **environ).code == 0
    missing = run("compile", "org/other", *FLAGS, cwd=tmp_path, **environ)
    assert missing.code == 1
    assert "org/other" in missing.err
