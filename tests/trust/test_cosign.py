"""Keys as cosign writes them: one of cosign's own, and such as a hostile file could hold."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import UsageError
from neuron_artifacts.trust.keys import load_private_key, load_public_key
from neuron_artifacts.trust.policy import require_trust
from neuron_artifacts.trust.statement import sign_artifact
from tests.artifact.artifacts import publish

OURS = Path(__file__).parents[1] / "data" / "trust" / "cosign.key"
PASSWORD = {"COSIGN_PASSWORD": "hello"}
KIND = "ENCRYPTED SIGSTORE PRIVATE KEY"

nacl_secret = pytest.importorskip("nacl.secret", reason="it opens and makes the boxes")


def test_a_key_that_cosign_made_signs(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_der_private_key,
    )

    from neuron_artifacts.trust.cosign import unlock

    artifact = publish(tmp_path)
    sign_artifact(artifact, load_private_key(OURS, PASSWORD))
    # `cosign public-key` writes the other half in just this form.
    public = load_der_private_key(unlock(OURS.read_bytes(), "hello", OURS), None).public_key()
    (tmp_path / "cosign.pub").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    assert require_trust(artifact, (load_public_key(tmp_path / "cosign.pub"),))


@pytest.mark.parametrize(
    ("environ", "message"),
    [({}, "needs a password"), ({"COSIGN_PASSWORD": "other"}, "password is wrong")],
)
def test_the_password_comes_from_the_environment(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_private_key(OURS, environ)
    assert "COSIGN_PASSWORD" in (caught.value.hint or "")


def seal(content: bytes, password: bytes = b"") -> dict[str, Any]:
    """What cosign writes, made again from its description."""
    salt, nonce = bytes(32), bytes(24)
    key = hashlib.scrypt(password, salt=salt, n=1024, r=8, p=1, dklen=32)
    box = nacl_secret.SecretBox(key).encrypt(content, nonce).ciphertext
    text = {name: base64.b64encode(v).decode() for name, v in (("s", salt), ("n", nonce))}
    return {
        "kdf": {"name": "scrypt", "params": {"N": 1024, "r": 8, "p": 1}, "salt": text["s"]},
        "cipher": {"name": "nacl/secretbox", "nonce": text["n"]},
        "ciphertext": base64.b64encode(box).decode(),
    }  # fmt: skip


def write(path: Path, body: Any, kind: str = KIND) -> Path:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = base64.b64encode(data).decode()
    path.write_text(f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n")
    return path


def pkcs8() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("kind", [KIND, "ENCRYPTED COSIGN PRIVATE KEY"])
def test_an_empty_password_is_one_too(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "k.key", seal(pkcs8()), kind)
    assert load_private_key(path, {}).public.key_id


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b["kdf"]["params"].update(N=2**40),
        lambda b: b["kdf"]["params"].update(N=1023),
        lambda b: b["kdf"]["params"].update(N=0),
        lambda b: b["kdf"]["params"].update(r=2**31),
        lambda b: b["kdf"]["params"].update(p=2**30),
        lambda b: b["kdf"]["params"].update(N="1024"),
        lambda b: b["kdf"]["params"].update(N=True),
        lambda b: b["kdf"].pop("salt"),
        lambda b: b["kdf"].update(name="argon2"),
        lambda b: b["cipher"].update(name="aes"),
        lambda b: b["cipher"].update(nonce="AAAA"),
        lambda b: b.update(ciphertext="AAAA"),
        lambda b: b.update(ciphertext=7),
        lambda b: b.clear(),
    ],
)
def test_absurd_keys_cost_nothing(change: Callable[[Any], Any], tmp_path: Path) -> None:
    """Among others scrypt parameters that would ask for a terabyte."""
    body = seal(pkcs8())
    change(body)
    with pytest.raises(UsageError):
        load_private_key(write(tmp_path / "k.key", body), {})


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 5000])
def test_what_is_no_box(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_private_key(write(tmp_path / "k.key", body), {})


def test_a_box_that_holds_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no private key"):
        load_private_key(write(tmp_path / "k.key", seal(b"something else")), {})
