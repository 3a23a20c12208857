"""``serve`` in the open: keys, certificates, and what it says where they are lacking."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from neuron_artifacts.cli.serve import _warn_if_open
from tests.cli.run import TOOL, run
from tests.models import ADDER
from tests.trust.authorities import authority, signer


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    flags = ("--backend", "cpu", "--seq-len", "64", "--context-encoding-buckets", "64", "--json")
    built = run("compile", ADDER, *flags, cwd=place)
    assert built.code == 0, built.err
    return place / "neuron-compiled-artifacts" / built.data["key"]


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [*TOOL, "serve", "--port", "0", "--json", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    try:
        yield json.loads(text), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_tls_and_a_key_from_the_command_line(artifact: Path, tmp_path: Path) -> None:
    root = authority()
    _, trusted = root.write(tmp_path / "root")
    here = x509.IPAddress(ip_address("127.0.0.1"))
    key, chain = signer(root, here, purpose=None).write(tmp_path / "server")
    files = ("--ssl-certfile", chain, "--ssl-keyfile", key)
    with serving("--artifacts", artifact, "--api-key", "sesame", *files) as (told, _):
        assert told["url"].startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(trusted))
        with httpx.Client(base_url=told["url"], verify=context, timeout=60) as client:
            assert client.get("/health").status_code == 200
            assert client.get("/metrics").status_code == 401
            keyed = {"Authorization": "Bearer sesame"}
            assert client.get("/metrics", headers=keyed).status_code == 200


def test_a_server_that_all_can_reach_without_a_key_says_so(artifact: Path) -> None:
    with serving("--artifacts", artifact, "--host", "0.0.0.0") as (_, process):
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert "WARNING: 0.0.0.0 may be reached from other machines and no --api-key is set" in said


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [
        ("127.0.0.1", (), False), ("127.0.0.2", (), False), ("::1", (), False),
        ("localhost", (), False), ("0.0.0.0", ("k",), False), ("0.0.0.0", (), True),
        ("::", (), True), ("", (), True), ("gpu-7.example.com", (), True), ("10.0.0.1", (), True),
    ],
)  # fmt: skip
def test_which_addresses_are_open(
    host: str, keys: tuple[str, ...], warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    _warn_if_open(host, keys)
    assert ("WARNING" in capsys.readouterr().err) is warns


@pytest.mark.parametrize("key", ["", " ", " padded", "two\nlines"])
def test_a_key_that_anybody_could_offer_is_refused(artifact: Path, key: str) -> None:
    refused = run("serve", "--artifacts", artifact, "--api-key", key)
    assert refused.code == 2
    assert "API key" in refused.err


@pytest.mark.parametrize("option", ["--ssl-keyfile", "--ssl-ca-certs"])
def test_nothing_is_sent_in_the_clear_by_mistake(
    artifact: Path, tmp_path: Path, option: str
) -> None:
    refused = run("serve", "--artifacts", artifact, option, tmp_path / "x.pem")
    assert refused.code == 2
    assert "--ssl-certfile" in refused.err


def test_a_locked_key_never_asks_at_the_terminal(artifact: Path, tmp_path: Path) -> None:
    """A terminal is there, and still nobody is asked."""
    root = authority()
    key, chain = root.write(tmp_path / "server")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:sesame"],
        check=True,
    )
    program = "import pty, os, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", program, *TOOL, "serve", "--artifacts", artifact, "--port", "0",
         "--ssl-certfile", chain, "--ssl-keyfile", locked],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "cannot be used" in done.stdout
    assert "NEURON_ARTIFACTS_SSL_PASSWORD" in done.stdout
