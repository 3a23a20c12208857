"""Remote stores of every kind, each empty, over real servers."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.remote import RemoteStore, moving, open_url
from tests.neuron_cache.cache_hub import CacheHub
from tests.remote import servers
from tests.remote.radosgw import has_radosgw, radosgw
from tests.remote.small_registry import SmallRegistry

TOKEN = "hf_tester"
REPO = "org/shared"


@dataclass(frozen=True)
class Place:
    """A remote store, and what is behind it; ``honest`` about conditions."""

    kind: str
    url: str
    behind: Any = None

    @property
    def store(self) -> RemoteStore:
        return open_url(self.url)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trying again is what is tested, not waiting. And nobody's own credentials are used."""
    monkeypatch.setattr(moving, "PAUSES", (0.01,) * 5)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    if not servers.has_moto():
        pytest.skip("obstore and moto[server] are not installed")
    with servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def radosgw_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not has_radosgw():
        pytest.skip("Ceph's radosgw is not installed (Debian: radosgw ceph-mon ceph-osd ceph-mgr)")
    with ExitStack() as running:
        yield _start_radosgw(running, tmp_path_factory)


def _start_radosgw(running: ExitStack, folders: pytest.TempPathFactory) -> str:
    """Ports that were free may be taken before a daemon binds them: then again, with others."""
    for _ in range(3):
        try:
            return running.enter_context(radosgw(folders.mktemp("radosgw")))
        except (OSError, subprocess.SubprocessError) as error:
            told = str(error)
    pytest.skip(f"a Ceph cluster does not start on this machine: {told}")


@pytest.fixture(scope="session")
def registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not servers.find_registry():
        pytest.skip("no registry is installed (Debian: docker-registry)")
    with servers.docker_registry(tmp_path_factory.mktemp("registry") / "r") as host:
        yield host


@pytest.fixture
def s3_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in servers.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[CacheHub]:
    import huggingface_hub.constants as constants

    with CacheHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        server.commit(REPO, {"README.md": b"# shared\n"}, readers={TOKEN})
        yield server


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    with SmallRegistry() as server:
        yield server


REAL = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("radosgw", "registry")]
"""Servers of Debian's packages, where they are installed."""


@pytest.fixture(params=["file", "s3", "hf", "oci", *REAL])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty remote store of each kind."""
    kind = request.param
    if kind == "file":
        return Place(kind, f"file://{tmp_path}/remote")
    if kind in ("s3", "radosgw"):
        request.getfixturevalue("s3_environ")
        endpoint = request.getfixturevalue(f"{kind}_endpoint")
        return Place(kind, f"s3://{servers.BUCKET}/{tmp_path.name}?endpoint={endpoint}")
    if kind == "hf":
        return Place(kind, f"hf://{REPO}", request.getfixturevalue("hub"))
    if kind == "registry":
        host = request.getfixturevalue("registry_host")
        return Place("oci", f"oci://{host}/r{secrets.token_hex(8)}/artifacts")
    registry = request.getfixturevalue("registry")
    return Place(kind, f"oci://{registry.host}/team/artifacts", registry)
