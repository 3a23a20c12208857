"""SIGKILL in the middle of push, pull, export and import; then again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.remote import (
    collect_remote,
    export_artifact,
    import_artifact,
    open_url,
    pull_artifact,
    push_artifact,
)
from neuron_artifacts.remote.object_store import CloudObjects
from neuron_artifacts.remote.objects import BLOBS, CasStore
from tests.cli.run import TOOL
from tests.remote import servers
from tests.remote.conftest import REPO
from tests.remote.samples import local_store, make_artifact
from tests.remote.servers import Proxy

EVENTS = ("open", "os.", "shutil.", "ctypes.", "fcntl.")
MB = 1 << 20


def die_at(step: int, work: Callable[[], object]) -> int | None:
    """Run ``work`` in a child that dies by SIGKILL at its N-th audited step (PEP 578).

    Returns the number of steps for a child that got through, ``None`` for one that died.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        steps = 0

        def hook(event: str, _args: object) -> None:
            nonlocal steps
            if event.startswith(EVENTS):
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
            os.write(writing, str(steps).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        text = told.read()
    return int(text) if text else None


def each_step(work: Callable[[int], object], stride: int) -> list[int]:
    """Step numbers spread over the whole of ``work``."""
    total = die_at(0, lambda: work(0))
    assert total is not None
    assert total > 20
    return list(range(1, total + 1, stride))


@pytest.mark.slow
def test_killed_at_every_step_of_a_push(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=100)

    def push(step: int) -> object:
        return push_artifact(open_url(f"file://{tmp_path}/r{step}"), artifact)

    hidden = 0
    for step in each_step(push, 3):
        die_at(step, lambda step=step: push(step))
        remote, here = open_url(f"file://{tmp_path}/r{step}"), local_store(tmp_path / f"s{step}")
        hidden += remote.keys() == []
        if remote.keys():
            assert pull_artifact(remote, artifact.name, here).path.is_dir()
        again = push_artifact(remote, artifact)
        assert again.published == (remote.keys() == [] or again.published)
        assert remote.keys() == [artifact.name]
        pulled = pull_artifact(remote, artifact.name, here)
        assert verify_artifact(pulled.path, "full").status == "ok"
        assert not list((tmp_path / f"r{step}/.arriving").iterdir())
    assert hidden > 10


@pytest.mark.slow
def test_killed_at_every_step_of_a_pull(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=100)
    remote = open_url(f"file://{tmp_path}/r")
    push_artifact(remote, artifact)

    def pull(step: int) -> object:
        return pull_artifact(remote, artifact.name, local_store(tmp_path / f"s{step}"))

    absent = 0
    for step in each_step(pull, 3):
        die_at(step, lambda step=step: pull(step))
        here = local_store(tmp_path / f"s{step}")
        absent += here.directories() == []
        for path in here.directories():
            assert verify_artifact(path, "full").status == "ok", f"step {step}"
        assert verify_artifact(pull(step).path, "full").status == "ok"  # type: ignore[attr-defined]
        here.collect_abandoned()
        assert not list(here.root.glob(".incoming/*")), f"step {step}"
    assert absent > 10


@pytest.mark.slow
def test_killed_at_every_step_of_an_export(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=100)

    def export(step: int) -> object:
        (tmp_path / f"e{step}").mkdir(exist_ok=True)
        return export_artifact(artifact, tmp_path / f"e{step}" / "x.tar")

    absent = 0
    for step in each_step(export, 2):
        die_at(step, lambda step=step: export(step))
        folder = tmp_path / f"e{step}"
        absent += not (folder / "x.tar").exists()
        if (folder / "x.tar").exists():
            import_artifact(folder / "x.tar", local_store(tmp_path / f"before{step}"))
        export(step)
        assert [path.name for path in folder.iterdir()] == ["x.tar"]
        imported = import_artifact(folder / "x.tar", local_store(tmp_path / f"after{step}"))
        assert verify_artifact(imported.path, "full").status == "ok"
    assert absent > 5


@pytest.mark.slow
def test_killed_at_every_step_of_an_import(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=100)
    export_artifact(artifact, tmp_path / "x.tar")

    def run(step: int) -> object:
        return import_artifact(tmp_path / "x.tar", local_store(tmp_path / f"s{step}"))

    for step in each_step(run, 3):
        die_at(step, lambda step=step: run(step))
        for path in local_store(tmp_path / f"s{step}").directories():
            assert verify_artifact(path, "full").status == "ok", f"step {step}"
        assert verify_artifact(run(step).path, "full").status == "ok"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_killed_at_every_step_of_a_collection(tmp_path: Path) -> None:
    """The artifact stays whole, and another collector takes the rest of the orphans."""
    artifact = make_artifact(tmp_path / "a", shards=2, shard_bytes=100)
    push_artifact(open_url(f"file://{tmp_path}/r"), artifact)
    kept = {path.name for path in (tmp_path / "r/cas/sha256").iterdir()}
    for number in range(4):
        (tmp_path / "r/cas/sha256" / f"{number:064x}").write_bytes(b"left by a push")

    def collect(step: int) -> object:
        return collect_remote(open_url(f"file://{tmp_path}/r{step}"), grace=-3600.0)

    found = 0
    shutil.copytree(tmp_path / "r", tmp_path / "r0")
    for step in each_step(collect, 2):
        there = Path(shutil.copytree(tmp_path / "r", tmp_path / f"r{step}"))
        die_at(step, lambda step=step: collect(step))
        left = {path.name for path in (there / "cas/sha256").iterdir()}
        found += len(left) > len(kept)
        collect(step)
        assert {path.name for path in (there / "cas/sha256").iterdir()} == kept
        here = local_store(tmp_path / f"s{step}")
        pulled = pull_artifact(open_url(f"file://{there}"), artifact.name, here)
        assert verify_artifact(pulled.path, "full").status == "ok"
    assert found > 5


@dataclass(frozen=True)
class Proxied:
    """A remote store behind a proxy; ``finished`` counts the bytes of its whole files."""

    proxy: Proxy
    url: str
    finished: Callable[[], int] = lambda: 0


@pytest.fixture(params=["s3", "oci", "hf"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxied]:
    if request.param == "s3":
        request.getfixturevalue("s3_environ")
        endpoint = request.getfixturevalue("s3_endpoint")
        place = f"s3://{servers.BUCKET}/{tmp_path.name}?endpoint="
        direct = CasStore(CloudObjects(f"{place}{endpoint}", os.environ))
        with Proxy(int(endpoint.rpartition(":")[2])) as proxy:
            yield Proxied(
                proxy, f"{place}{proxy.url}",
                lambda: sum(listed.size for listed in direct.objects.list(BLOBS)),
            )  # fmt: skip
    elif request.param == "oci":
        registry = request.getfixturevalue("registry")
        with Proxy(int(registry.host.rpartition(":")[2])) as proxy:
            yield Proxied(
                proxy, f"oci://127.0.0.1:{proxy.port}/team/r",
                lambda: sum(map(len, registry.blobs.values())),
            )  # fmt: skip
    else:
        import huggingface_hub.constants as constants

        hub = request.getfixturevalue("hub")
        with Proxy(hub.port) as proxy:
            hub.url = proxy.url  # where it says that uploads go
            monkeypatch.setattr(constants, "ENDPOINT", proxy.url)
            monkeypatch.setenv("HF_ENDPOINT", proxy.url)
            monkeypatch.setenv("HF_HUB_OFFLINE", "0")
            yield Proxied(proxy, f"hf://{REPO}", lambda: sum(map(len, hub.lfs.values())))


def kill_when_cut(proxy: Proxy, *arguments: object) -> None:
    """Run the command line and kill it once the proxy has passed on so many bytes."""
    proxy.reset()
    proxy.cut_after = 9 * MB
    process = subprocess.Popen(
        [*TOOL, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert proxy.cut.wait(60)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    proxy.drop()


def test_a_killed_push_sends_finished_files_once(proxied: Proxied, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=12, shard_bytes=MB)
    kill_when_cut(proxied.proxy, "push", artifact, "--to", proxied.url)
    proxied.proxy.reset()
    finished = proxied.finished()
    remote = open_url(proxied.url)
    assert remote.keys() == []
    pushed = push_artifact(remote, artifact)
    assert pushed.published
    assert finished >= MB
    missing = pushed.total_bytes - finished
    assert proxied.proxy.sent < missing + MB // 2
    pulled = pull_artifact(remote, artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"


def test_a_killed_pull_fetches_finished_bytes_once(proxied: Proxied, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=12, shard_bytes=MB)
    pushed = push_artifact(open_url(proxied.url), artifact)
    store = tmp_path / "b"
    kill_when_cut(proxied.proxy, "pull", artifact.name, "--from", proxied.url, "--store", store)
    here = local_store(store)
    assert here.directories() == []
    proxied.proxy.reset()
    pulled = pull_artifact(open_url(proxied.url), artifact.name, here)
    assert verify_artifact(pulled.path, "full").status == "ok"
    assert pulled.resumed_bytes >= MB
    assert pulled.resumed_bytes + pulled.fetched_bytes == pushed.total_bytes
    assert pulled.fetched_bytes <= proxied.proxy.received < pulled.fetched_bytes + MB // 2


@pytest.mark.parametrize("proxied", ["s3"], indirect=True)
def test_a_file_killed_between_its_parts_never_shows(proxied: Proxied, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "a", shards=1, shard_bytes=40 * MB)
    kill_when_cut(proxied.proxy, "push", artifact, "--to", proxied.url)
    proxied.proxy.reset()
    assert proxied.finished() < MB
    remote = open_url(proxied.url)
    assert push_artifact(remote, artifact).sent_bytes > 40 * MB
    pulled = pull_artifact(remote, artifact.name, local_store(tmp_path / "b"))
    assert verify_artifact(pulled.path, "full").status == "ok"
