"""Servers of a real artifact: collected around, and killed under load."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from neuron_artifacts.artifact import verify_artifact
from neuron_artifacts.store import LocalStore
from tests.cli.run import TOOL, run
from tests.faults.conftest import RUNS, Record
from tests.models import ADDER

PATIENCE = 120.0
BODY = {"prompt": "12+30=", "max_tokens": 16, "temperature": 0}
SPARE = ["--seq-len", "32", "--batch-size", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the artifact that is served and another that nobody needs."""
    place = tmp_path_factory.mktemp("served")
    built = run("compile", ADDER, "--seq-len", "64", "--batch-size", "2", "--json", cwd=place)
    assert built.code == 0, built.err
    return place


@pytest.fixture
def artifact(place: Path) -> Path:
    (found,) = LocalStore(place).directories()
    return found


@contextlib.contextmanager
def serving(artifact: Path, number: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server on a socket whose name is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="na") as folder:
        socket = f"{folder}/{number}"
        process = subprocess.Popen(
            [*TOOL, "serve", "--artifacts", str(artifact), "--uds", socket], cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process, socket
        finally:
            process.kill()
            process.wait()


def client(socket: str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=socket, retries=0)
    return httpx.Client(transport=transport, base_url="http://server", timeout=PATIENCE)


def await_ready(process: subprocess.Popen[bytes], socket: str) -> None:
    for _ in range(int(PATIENCE * 10)):
        assert process.poll() is None, "it ended before it was ready"
        with contextlib.suppress(httpx.HTTPError), client(socket) as asking:
            if asking.get("/health").status_code == 200:
                return
        threading.Event().wait(0.1)
    raise AssertionError("it never was ready")


def ask(socket: str) -> str:
    with client(socket) as asking:
        response = asking.post("/v1/completions", json=BODY)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def contents(artifact: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(artifact)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in artifact.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_collecting_against_servers(place: Path, artifact: Path, record: Record) -> None:
    """Two servers read it, one of them through a link; a third artifact goes at once."""
    link = place / "current"
    link.symlink_to(artifact)
    with serving(artifact, 1) as (one, first), serving(link, 2) as (two, second):
        await_ready(one, first)
        await_ready(two, second)
        expected = ask(first)
        for _ in range(3 * RUNS):
            spare = run("compile", ADDER, *SPARE, "--json", cwd=place)
            assert spare.code == 0, spare.err
            gone = run("gc", "--max-size", "0", "--older-than", "0s", "--json", cwd=place)
            assert gone.code == 0, gone.err
            assert [row["path"] for row in gone.data["removals"]] == [spare.data["path"]]
            assert ask(first) == ask(second) == expected
            assert verify_artifact(artifact, "full").status == "ok"
            record("gc against 2 servers", "what they serve stayed, the rest went")
        one.kill()
        one.wait()
        assert not run("gc", "--max-size", "0", "--json", cwd=place).data["removals"]
        two.send_signal(signal.SIGTERM)
        assert two.wait(PATIENCE) == 0
    dry = run("gc", "--max-size", "0", "--dry-run", "--json", cwd=place)
    assert [row["path"] for row in dry.data["removals"]] == [str(artifact)]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_server_that_dies_under_load(
    sent: signal.Signals, place: Path, artifact: Path, record: Record
) -> None:
    """As when the compiled library crashes, or the kernel needs the memory."""
    before = contents(artifact)
    with serving(artifact, 3) as (process, socket):
        await_ready(process, socket)
        expected = ask(socket)
        threads = [threading.Thread(target=_ask_until_it_dies, args=(socket,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.3)
        process.send_signal(sent)
        assert process.wait(PATIENCE) == -sent
        for thread in threads:
            thread.join()
    assert contents(artifact) == before
    assert run("verify", artifact, cwd=place).code == 0
    assert run("gc", "--json", cwd=place).code == 0
    leases = place.rglob(f".leases/{artifact.name}/*")
    assert list(leases) == [], "the lease of the dead went with the collection"
    with serving(artifact, 3) as (process, socket):
        await_ready(process, socket)
        assert ask(socket) == expected
    record(f"{sent.name} to a server under load", "artifact and store untouched; it serves again")


def _ask_until_it_dies(socket: str) -> None:
    with contextlib.suppress(httpx.HTTPError, AssertionError):
        while True:
            ask(socket)
