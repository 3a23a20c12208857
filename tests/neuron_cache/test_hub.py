"""The test hub itself: the real client of huggingface_hub must be content with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.model.fake_hub import Fault
from tests.neuron_cache.cache_hub import CacheHub


@pytest.fixture
def small_hub() -> Iterator[CacheHub]:
    with CacheHub(page=3) as served:
        yield served


@pytest.fixture
def api(small_hub: CacheHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HfApi:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return HfApi(endpoint=small_hub.url, token="hf_me")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "upload"
    for number in range(8):
        (root / "a" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (root / "a" / f"{number % 2}" / f"{number}.json").write_text(f'{{"n": {number}}}')
    (root / "weights.safetensors").write_bytes(bytes(range(256)) * 50)
    return root


def test_upload_list_and_download(
    small_hub: CacheHub, api: HfApi, folder: Path, tmp_path: Path
) -> None:
    assert str(api.create_repo("me/cache", private=True)).endswith("/me/cache")
    commit = api.upload_folder(repo_id="me/cache", folder_path=folder)
    assert api.model_info("me/cache").sha == commit.oid
    names = set(api.list_repo_files("me/cache"))
    assert names == {".gitattributes", "weights.safetensors",
                     *(f"a/{n % 2}/{n}.json" for n in range(8))}  # fmt: skip
    assert len(small_hub.lfs) == 1
    tree = list(api.list_repo_tree("me/cache", "a", recursive=True))
    assert len(tree) == 10
    assert len(small_hub.asked("GET", "/tree/")) >= 4
    got = Path(api.snapshot_download("me/cache", local_dir=tmp_path / "down"))
    for path in folder.rglob("*.*"):
        assert (got / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_what_is_there_already_does_not_travel_again(
    small_hub: CacheHub, api: HfApi, folder: Path
) -> None:
    api.create_repo("me/cache")
    api.upload_folder(repo_id="me/cache", folder_path=folder)
    small_hub.requests.clear()
    (folder / "new.json").write_text("{}")
    api.upload_folder(repo_id="me/cache", folder_path=folder)
    assert not small_hub.asked("PUT", "/lfs/")
    assert api.file_exists("me/cache", "new.json")


def test_commits_delete_and_refuse_a_stale_parent(api: HfApi) -> None:
    api.create_repo("me/cache")
    first = api.create_commit(
        "me/cache", [CommitOperationAdd("x/1.json", b"1"), CommitOperationAdd("y.json", b"2")],
        commit_message="add",
    )  # fmt: skip
    api.create_commit("me/cache", [CommitOperationDelete("x/")], commit_message="delete")
    assert set(api.list_repo_files("me/cache")) == {".gitattributes", "y.json"}
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit(
            "me/cache", [CommitOperationAdd("z", b"")], commit_message="late",
            parent_commit=first.oid,
        )  # fmt: skip
    assert caught.value.response.status_code == 412
    assert len(api.list_repo_commits("me/cache")) == 3
    assert [b.name for b in api.list_repo_refs("me/cache").branches] == ["main"]
    info = api.get_paths_info("me/cache", ["y.json"], revision=first.oid)
    assert [i.path for i in info] == ["y.json"]


def test_what_must_be_refused_is(small_hub: CacheHub, api: HfApi) -> None:
    api.create_repo("me/cache", private=True)
    api.create_repo("me/cache", exist_ok=True)
    with pytest.raises(HfHubHTTPError):
        api.create_repo("me/cache")
    stranger = HfApi(endpoint=small_hub.url, token=False)
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info("me/cache")
    with pytest.raises(HfHubHTTPError):
        stranger.create_repo("me/other")
    assert api.whoami()["name"] == "me"
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree("me/cache", revision="none"))
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("me/cache", "none"))
    api.delete_repo("me/cache")
    assert not api.repo_exists("me/cache")


def test_trouble_passes(small_hub: CacheHub, api: HfApi, tmp_path: Path) -> None:
    small_hub.commit("org/model", {"config.json": b"{}"})
    small_hub.faults.append(Fault("/tree/", status=429, times=1, headers={"Retry-After": "0"}))
    small_hub.faults.append(Fault("/tree/", status=500, times=1))
    assert [f.path for f in api.list_repo_tree("org/model")] == ["config.json"]
    small_hub.latency = 0.05
    path = api.hf_hub_download("org/model", "config.json", local_dir=tmp_path)
    assert Path(path).read_bytes() == b"{}"
