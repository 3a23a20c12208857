"""Envelopes, provenance, policies and keys that were made to mislead or to break the reader."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_artifacts.artifact import (
    MANIFEST_NAME,
    PROVENANCE_NAME,
    SIGNATURE_NAME,
    read_manifest,
)
from neuron_artifacts.errors import CorruptError, UntrustedError, UsageError
from neuron_artifacts.trust.identity import Identity, load_identity
from neuron_artifacts.trust.keys import PublicKey, generate_keys, load_private_key, load_public_key
from neuron_artifacts.trust.policy import load_policy, require_trust
from neuron_artifacts.trust.provenance import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    check_provenance,
    make_predicate,
    read_provenance,
)
from neuron_artifacts.trust.statement import read_signatures, sign_artifact
from tests.artifact.artifacts import publish
from tests.fuzz.inputs import JSON, MAX_MESSAGE, changed, damaged, fuzz, refusing
from tests.trust.authorities import authority, email, signer

POLICY = {
    "keys": {"release": "release.pub"},
    "identities": {"ci": {"subject": "a@b.c", "issuer": "https://i", "trusted_root": "root.pem"}},
    "rules": [{"stores": ["*"], "require": ["release", "ci"]}],
}
PROVENANCE = make_predicate(
    kind="compile", builder="b", parameters={"model": "m"}, toolchain={"compiler": "gcc"},
    command=["neuron-artifacts", "compile", "m"],
    dependencies=[{"name": "model.safetensors", "digest": {"sha256": "0" * 64}}],
    began="2026-01-01T00:00:00Z", ended="2026-01-01T00:00:01Z",
)  # fmt: skip
BROKEN_POINT = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE" + "A" * 86 + "==\n-----END PUBLIC KEY-----\n"
)


class Signed:
    """An artifact with a signature, whose files are replaced example by example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private, self.public = generate_keys(folder / "release", {})
        authority().write(folder / "root")
        self.directory = publish(folder)
        path = sign_artifact(self.directory, load_private_key(self.private, {}))
        self.envelope: dict[str, Any] = json.loads(path.read_text())
        self.statement: dict[str, Any] = json.loads(base64.b64decode(self.envelope["payload"]))

    @property
    def key(self) -> PublicKey:
        return load_public_key(self.public, "release")

    def put(self, name: str, data: bytes) -> None:
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.write_bytes(data)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"))


@fuzz
@given(st.data())
def test_no_changed_envelope_passes_for_another(signed: Signed, data: st.DataObject) -> None:
    """It is damaged, or signed by nobody that is expected, or it says what it said before."""
    envelope = data.draw(changed(signed.envelope))
    signed.put(SIGNATURE_NAME, json.dumps(envelope).encode())
    with refusing(CorruptError, UntrustedError):
        assert require_trust(signed.directory, (signed.key,)) is not None
        assert envelope["payload"] == signed.envelope["payload"]
        assert signed.envelope["signatures"][0]["sig"] in [s["sig"] for s in envelope["signatures"]]


@fuzz
@given(st.data())
def test_changed_statements_lose_their_signature(signed: Signed, data: st.DataObject) -> None:
    statement = json.dumps(data.draw(changed(signed.statement)), sort_keys=True).encode()
    payload = base64.b64encode(statement).decode()
    signed.put(SIGNATURE_NAME, json.dumps({**signed.envelope, "payload": payload}).encode())
    with refusing(CorruptError, UntrustedError):
        require_trust(signed.directory, (signed.key,))
        pytest.fail("a statement that was changed is trusted")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, dict[str, Any], list[bytes]]:
    """An identity that has not signed, the envelope of one that has, and its certificates."""
    root = authority()
    holder = signer(authority(root), email("a@example.com"), issuer="https://login.example.com")
    folder = tmp_path_factory.mktemp("named")
    private, chain = holder.write(folder / "signer")
    path = sign_artifact(publish(folder), load_private_key(private, {}), chain.read_bytes())
    envelope = json.loads(path.read_text())
    der = [c.public_bytes(Encoding.DER) for c in (holder.certificate, *holder.chain)]
    roots = root.write(folder / "root")[1]
    return load_identity("b@example.com", "https://login.example.com", roots), envelope, der


@fuzz
@given(st.data())
def test_changed_certificates(
    signed: Signed, named: tuple[Identity, dict[str, Any], list[bytes]], data: st.DataObject
) -> None:
    """Whatever stands in a certificate, nobody but its holder is trusted for it."""
    identity, envelope, der = named
    whole = "".join(pem(one).decode() for one in der).encode()
    other = data.draw(
        damaged(whole)
        | st.tuples(*map(damaged, der)).map(
            lambda parts: b"".join(map(pem, parts)) if parts != tuple(der) else b""
        )
    )
    row = {**envelope["signatures"][0], "cert": other.decode("ascii", "replace")}
    signed.put(SIGNATURE_NAME, json.dumps({**envelope, "signatures": [row]}).encode())
    with refusing(CorruptError, UntrustedError):
        require_trust(signed.directory, (identity,))
        pytest.fail("a certificate was changed to name somebody else")


def pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


@fuzz
@given(st.data())
def test_damaged_envelopes(signed: Signed, data: st.DataObject) -> None:
    signed.put(SIGNATURE_NAME, data.draw(damaged(json.dumps(signed.envelope).encode())))
    with refusing(CorruptError):
        read_signatures(signed.directory)


@fuzz
@given(changed(PROVENANCE), st.booleans(), st.data())
@example({**PROVENANCE, "buildDefinition": {"resolvedDependencies": [{"digest": []}]}}, False, None)
def test_provenance(signed: Signed, predicate: Any, more: bool, data: Any) -> None:
    """Read or refused; what was read contradicts the artifact, which it was not written for."""
    sha256 = hashlib.sha256((signed.directory / MANIFEST_NAME).read_bytes()).hexdigest()
    statement: Any = {
        "_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, "predicate": predicate,
        "subject": [{"name": MANIFEST_NAME, "digest": {"sha256": sha256}}],
    }  # fmt: skip
    if more:
        statement = data.draw(changed(statement))
    signed.put(PROVENANCE_NAME, json.dumps(statement).encode())
    with refusing(CorruptError):
        read = read_provenance(signed.directory)
        if read is not None:
            problems = check_provenance(read, read_manifest(signed.directory))
            assert problems
            assert all(line.isprintable() and len(line) < MAX_MESSAGE for line in problems)


@fuzz
@given(changed(POLICY).map(yaml.safe_dump) | st.text(max_size=60) | JSON.map(json.dumps))
@example("keys: &k {a: b}\nrules: [*k]")
@example('keys: {a: "\\0"}')
@example("keys: {a: /dev/zero}")
@example("rules: []\nrules: []")
def test_policies(signed: Signed, text: str) -> None:
    """A policy is understood whole, or trusts nobody."""
    path = signed.folder / "policy.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with refusing(UsageError):
        policy = load_policy({"NEURON_ARTIFACTS_POLICY": str(path)})
        assert all(who.name in ("release", "ci") for rule in policy.rules for who in rule.vouchers)


@fuzz
@given(st.data())
def test_keys(signed: Signed, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([signed.public, signed.private])).read_bytes()
    path = signed.folder / "other.pem"
    path.write_bytes(data.draw(damaged(whole) | st.binary(max_size=300)))
    for load in (load_public_key, load_private_key):
        with refusing(UsageError):
            load(path)


def test_a_key_whose_point_is_on_no_curve(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_text(BROKEN_POINT)
    with pytest.raises(UsageError, match="no public key"):
        load_public_key(tmp_path / "k.pub")
