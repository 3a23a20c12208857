"""What every remote store must do, over real servers of each kind."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuron_artifacts._files import hash_file
from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.errors import CorruptError, MissError, RemoteError
from neuron_artifacts.events import BytesMoved, Event
from neuron_artifacts.remote import find_key, open_url, pull_artifact, push_artifact
from neuron_artifacts.remote.manifest import RemoteManifest
from neuron_artifacts.remote.port import Blob
from tests.cli.run import TOOL
from tests.remote import servers
from tests.remote.conftest import Place
from tests.remote.samples import local_store, make_artifact
from tests.remote.servers import Proxy

LARGE = ["s3", pytest.param("radosgw", marks=pytest.mark.slow)]


def test_an_artifact_goes_there_and_comes_back(place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a")
    (artifact / "artifact.sig.json").write_bytes(b'{"signatures": []}')
    pushed = push_artifact(place.store, artifact)
    assert pushed.published
    assert (
        pushed.sent_bytes
        == pushed.total_bytes
        == sum(
            f.stat().st_size
            for f in artifact.rglob("*")
            if f.is_file() and f.name != "artifact.json"
        )
    )
    events: list[Event] = []
    pulled = pull_artifact(
        place.store, artifact.name, local_store(tmp_path / "b"), observe=events.append
    )
    assert verify_artifact(pulled.path, "full").status == "ok"
    assert _contents(pulled.path) == _contents(artifact)
    assert pulled.fetched_bytes == pushed.sent_bytes
    moved = [event for event in events if isinstance(event, BytesMoved)]
    signature = (artifact / "artifact.sig.json").stat().st_size
    assert moved[-1].done == moved[-1].total == pushed.sent_bytes - signature
    assert not list((tmp_path / "b").rglob(".incoming*"))


def test_pushing_again_sends_nothing(place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a")
    assert push_artifact(place.store, artifact).published
    again = push_artifact(place.store, artifact)
    assert (again.published, again.sent_bytes, again.sent_files) == (False, 0, 0)


def test_a_second_configuration_in_bytes_on_the_wire(
    s3_endpoint: str, s3_environ: None, tmp_path: Path
) -> None:
    """Graphs, manifests and questions: whatever a push or pull sends, it is no weights."""
    first = make_artifact(tmp_path / "a", shard_bytes=1 << 20)
    second = make_artifact(tmp_path / "a", shard_bytes=1 << 20, batch_size=4)
    here = local_store(tmp_path / "b")
    with Proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        url = f"s3://{servers.BUCKET}/{tmp_path.name}?endpoint={proxy.url}"
        push_artifact(open_url(url), first)
        assert proxy.sent > 3 << 20
        proxy.reset()
        push_artifact(open_url(url), second)
        assert proxy.sent + proxy.received < 100_000
        proxy.reset()
        pull_artifact(open_url(url), first.name, here)
        assert proxy.received > 3 << 20
        proxy.reset()
        pull_artifact(open_url(url), second.name, here)
        assert proxy.sent + proxy.received < 100_000


def test_a_second_configuration_moves_its_graphs_alone(place: Place, tmp_path: Path) -> None:
    first = make_artifact(tmp_path / "a")
    second = make_artifact(tmp_path / "a", batch_size=4)
    graphs = (second / "graphs/a.so").stat().st_size
    push_artifact(place.store, first)
    assert push_artifact(place.store, second).sent_bytes == graphs
    here = local_store(tmp_path / "b")
    pull_artifact(place.store, first.name, here)
    pulled = pull_artifact(place.store, second.name, here)
    assert pulled.fetched_bytes == graphs
    assert pulled.linked_bytes > 3 * 64 * 1024
    assert verify_artifact(pulled.path, "full").status == "ok"


@pytest.mark.parametrize("place", LARGE, indirect=True)
def test_files_of_several_parts(place: Place, tmp_path: Path) -> None:
    """Files larger than one part go up in several, and come down by ranges."""
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=36 << 20)
    pushed = push_artifact(place.store, artifact)
    pulled = pull_artifact(place.store, artifact.name, local_store(tmp_path / "b"))
    assert pulled.fetched_bytes == pushed.sent_bytes > 72 << 20
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_of_eight_racers_one_wins(place: Place, tmp_path: Path) -> None:
    """A registry knows no conditions: there the last wins, and every reader sees a whole one."""
    artifact = make_artifact(tmp_path / "a", shards=1, shard_bytes=100)
    barrier = threading.Barrier(8)

    def race(_: int) -> bool:
        store = place.store
        barrier.wait()
        return push_artifact(store, artifact).published

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(race, range(8)))
    if place.kind == "oci":
        assert won >= 1
    else:
        assert won == 1
    pulled = pull_artifact(place.store, artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "hf", *LARGE], indirect=True)
def test_of_eight_processes_one_wins(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2)
    if place.kind == "hf":
        monkeypatch.setenv("HF_ENDPOINT", place.behind.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    command = [*TOOL, "push", str(artifact), "--to", place.url, "--json"]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    reports = [json.loads(racer.communicate(timeout=240)[0])["pushed"][0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 8
    assert sum(report["published"] for report in reports) == 1
    pulled = pull_artifact(place.store, artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_the_probe_accepts_it_and_leaves_nothing(place: Place) -> None:
    assert place.store.probe().conditional
    assert place.store.keys() == []
    if place.kind == "file":
        root = Path(place.url.removeprefix("file://"))
        assert [p.name for p in root.rglob("*") if p.is_file()] == []


def test_keys_are_found_by_their_beginning(place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1)
    with pytest.raises(MissError):
        find_key(artifact.name[:8], place.store)
    push_artifact(place.store, artifact)
    assert place.store.keys() == [artifact.name]
    assert find_key(artifact.name[:8], place.store) == artifact.name


def test_reading_goes_on_from_an_offset(place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1, shard_bytes=300_000)
    push_artifact(place.store, artifact)
    path = artifact / "weights/0.safetensors"
    data, digest = path.read_bytes(), _sha256(path)
    for start in (0, 1, 299_999):
        assert b"".join(place.store.read(digest, len(data), start)) == data[start:]


def test_a_key_that_is_not_there_is_a_miss(place: Place, tmp_path: Path) -> None:
    with pytest.raises(MissError):
        pull_artifact(place.store, "0" * 64, local_store(tmp_path))
    with pytest.raises(MissError):
        list(place.store.read("0" * 64, 10))


def test_a_file_that_changed_since_is_not_pushed(place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=3 << 20)
    weights = artifact / "weights/1.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    digest = _sha256(weights)
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptError):
        push_artifact(place.store, artifact)
    store = place.store
    assert store.keys() == []
    assert store.sizes([digest]) == {}


def test_what_lies_broken_here_is_set_aside(place: Place, tmp_path: Path) -> None:
    artifact, here = make_artifact(tmp_path / "a", shards=1), local_store(tmp_path / "b")
    push_artifact(place.store, artifact)
    path = pull_artifact(place.store, artifact.name, here).path
    (path / "weights/0.safetensors").unlink()
    pulled = pull_artifact(place.store, artifact.name, here)
    assert pulled.set_aside is not None
    assert pulled.set_aside.is_dir()
    assert verify_artifact(path, "full").status == "ok"
    assert pull_artifact(place.store, artifact.name, here).already_there


@pytest.mark.parametrize("place", ["file", "s3", "hf"], indirect=True)
def test_a_blob_that_got_lost_is_a_miss_until_pushed_again(place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1)
    store = place.store
    manifest = RemoteManifest((artifact / "artifact.json").read_bytes())
    assert store.publish(manifest)
    here = local_store(tmp_path / "b")
    with pytest.raises(MissError):
        pull_artifact(store, artifact.name, here)
    assert here.directories() == []
    pushed = push_artifact(place.store, artifact)
    assert not pushed.published
    assert pushed.sent_bytes == pushed.total_bytes
    assert verify_artifact(pull_artifact(store, artifact.name, here).path, "full").status == "ok"


@pytest.mark.parametrize("place", ["file", "oci"], indirect=True)
@pytest.mark.parametrize("damage", ["flip", "cut", "more", "gone"])
def test_other_bytes_than_pushed_never_show(place: Place, damage: str, tmp_path: Path) -> None:
    artifact, here = make_artifact(tmp_path / "a", shards=2), local_store(tmp_path / "b")
    push_artifact(place.store, artifact)
    digest = _sha256(artifact / "weights/1.safetensors")
    data = (artifact / "weights/1.safetensors").read_bytes()
    damaged = {
        "flip": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "more": data + b"more",
        "gone": b"",
    }  # fmt: skip
    _replace(place, digest, damaged[damage])
    with pytest.raises((CorruptError, RemoteError)):
        pull_artifact(place.store, artifact.name, here)
    assert here.directories() == []
    _replace(place, digest, data)
    assert verify_artifact(pull_artifact(place.store, artifact.name, here).path).status == "ok"


def test_writing_counts_every_byte(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    counts: list[int] = []
    place.store.write(Blob(path, 100, _sha256(path)), counts.append)
    assert sum(counts) == 100


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _replace(place: Place, digest: str, data: bytes) -> None:
    """Put other bytes behind a store's back."""
    if place.kind == "oci":
        place.behind.blobs[f"sha256:{digest}"] = data
    else:
        (Path(place.url.removeprefix("file://")) / "cas/sha256" / digest).write_bytes(data)


def _sha256(path: Path) -> str:
    return hash_file(path)
