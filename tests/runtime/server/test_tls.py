"""TLS: an authority's server certificate, clients that need one, keys that are locked."""

from __future__ import annotations

import socket
import ssl
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from neuron_artifacts.errors import ServeError
from neuron_artifacts.runtime.server.lifecycle import Server, Tls
from tests.runtime.server.harness import PATIENCE, running, toy_state
from tests.trust.authorities import Holder, authority, signer

TEXT = {"prompt": "Hello", "max_tokens": 5, "ignore_eos": True}


@pytest.fixture(scope="module")
def root() -> Holder:
    return authority()


@pytest.fixture
def files(root: Holder, tmp_path: Path) -> tuple[Path, Path]:
    """The server's chain and key."""
    here = x509.IPAddress(ip_address("127.0.0.1"))
    purpose = ExtendedKeyUsageOID.SERVER_AUTH
    key, chain = signer(authority(root), here, purpose=purpose).write(tmp_path / "server")
    return chain, key


def trusting(root: Holder, folder: Path) -> ssl.SSLContext:
    _, certificate = root.write(folder / "root")
    return ssl.create_default_context(cafile=str(certificate))


def test_a_client_that_trusts_the_authority_is_served(
    root: Holder, files: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    with running(toy_state(folder), tls=Tls(*files)) as server:
        trust = trusting(root, tmp_path)
        with httpx.Client(base_url=server.url, verify=trust, timeout=PATIENCE) as client:
            answer = client.post("/v1/completions", json=TEXT).json()
            assert answer["usage"]["completion_tokens"] == 5
            body = {**TEXT, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as stream:
                assert "data: [DONE]" in stream.read().decode()
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(server.url + "/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http") + "/health")


def test_old_protocols_are_not_spoken(
    root: Holder, files: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    with running(toy_state(folder), tls=Tls(*files)) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(root.write(tmp_path / "root")[1])
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                assert secured.version() in ("TLSv1.2", "TLSv1.3")


def test_clients_may_need_a_certificate_too(
    root: Holder, files: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    clients = authority()
    _, wanted = clients.write(tmp_path / "clients")
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH
    name = x509.DNSName("client")
    with running(toy_state(folder), tls=Tls(*files, ca_certs=wanted)) as server:

        def get(holder: Holder | None) -> int:
            trust = trusting(root, tmp_path)
            if holder:
                key, chain = holder.write(tmp_path / "client")
                trust.load_cert_chain(chain, key)
            return httpx.get(server.url + "/health", verify=trust).status_code

        assert get(signer(clients, name, purpose=purpose)) == 200
        for stranger in (None, signer(authority(), name, purpose=purpose)):
            with pytest.raises(httpx.TransportError):
                get(stranger)


def test_a_locked_key_takes_its_password_and_never_asks(
    root: Holder, files: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    """OpenSSL would ask at the terminal, where nobody sits."""
    holder = signer(root, x509.IPAddress(ip_address("127.0.0.1")), purpose=None)
    _, chain = holder.write(tmp_path / "locked")
    locked = tmp_path / "locked.key"
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame"))
    locked.write_bytes(holder.key.private_bytes(*form))
    with running(toy_state(folder), tls=Tls(chain, locked, password="sesame")) as server:
        trust = trusting(root, tmp_path)
        assert httpx.get(server.url + "/health", verify=trust).status_code == 200
    for password in (None, "wrong"):
        with pytest.raises(ServeError, match="cannot be used") as caught:
            Server(toy_state(folder), tls=Tls(chain, locked, password=password))
        assert "NEURON_ARTIFACTS_SSL_PASSWORD" in (caught.value.hint or "")


@pytest.mark.parametrize("what", ["another key", "no authorities"])
def test_files_that_do_not_belong_together(
    what: str, files: tuple[Path, Path], root: Holder, folder: Path, tmp_path: Path
) -> None:
    chain, key = files
    other = root.write(tmp_path / "other")[0]
    (tmp_path / "none.pem").write_text("nothing")
    tls = Tls(chain, other) if what == "another key" else Tls(chain, key, tmp_path / "none.pem")
    with pytest.raises(ServeError, match="cannot be used"):
        Server(toy_state(folder), tls=tls)
