"""A signature as a Sigstore bundle holds what its format asks for, and nothing is signed anew."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from cryptography import x509

from neuron_artifacts.artifact import SIGNATURE_NAME
from neuron_artifacts.trust.keys import generate_keys, load_public_key
from tests.artifact.artifacts import publish
from tests.cli.run import run
from tests.trust.authorities import authority, email, signer


def read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text())
    assert body["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert body["verificationMaterial"]["tlogEntries"] == []
    return body


def test_a_key_is_hinted_at_as_cosign_does(tmp_path: Path) -> None:
    artifact = publish(tmp_path)
    private, public = generate_keys(tmp_path / "k", {})
    target = tmp_path / "b.json"
    assert run("sign", artifact, "--key", private, "--bundle", target).code == 0
    body, envelope = read(target), json.loads((artifact / SIGNATURE_NAME).read_text())
    hint = base64.b64decode(body["verificationMaterial"]["publicKey"]["hint"])
    assert hint.hex() == load_public_key(public).key_id
    assert body["dsseEnvelope"]["payload"] == envelope["payload"]
    assert body["dsseEnvelope"]["signatures"][0]["sig"] == envelope["signatures"][0]["sig"]


def test_a_certificate_goes_along(tmp_path: Path) -> None:
    artifact = publish(tmp_path)
    holder = signer(authority(), email("a@example.com"))
    private, chain = holder.write(tmp_path / "s")
    target = tmp_path / "b.json"
    arguments = ("--key", private, "--certificate", chain, "--bundle", target)
    assert run("sign", artifact, *arguments).code == 0
    raw = base64.b64decode(read(target)["verificationMaterial"]["certificate"]["rawBytes"])
    assert x509.load_der_x509_certificate(raw) == holder.certificate
    other = publish(tmp_path, number=2)
    refused = run("sign", artifact, other, *arguments)
    assert (refused.code, "one artifact" in refused.err) == (2, True)
