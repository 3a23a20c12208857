"""Signatures by name: certificates that count, and all the ways in which one does not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from neuron_artifacts.artifact import SIGNATURE_NAME
from neuron_artifacts.errors import CorruptError, UntrustedError, UsageError
from neuron_artifacts.trust.identity import Identity, load_chain, load_identity
from neuron_artifacts.trust.keys import load_private_key, load_public_key
from neuron_artifacts.trust.policy import load_policy, require_trust
from neuron_artifacts.trust.statement import read_signatures, sign_artifact
from tests.artifact.artifacts import publish
from tests.trust.authorities import Holder, authority, email, signer, uri

ADDRESS = "release@example.com"
WORKFLOW = "https://github.com/o/r/.github/workflows/build.yml@refs/heads/main"
LOGIN = "https://token.actions.githubusercontent.com"


@pytest.fixture(scope="module")
def root() -> Holder:
    return authority()


@pytest.fixture(scope="module")
def between(root: Holder) -> Holder:
    return authority(root, path_length=0)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return publish(tmp_path)


def sign(artifact: Path, holder: Holder) -> None:
    private, chain = holder.write(artifact.parent / "signer")
    key = load_private_key(private, {})
    sign_artifact(artifact, key, load_chain(chain, key))


def attach(artifact: Path, holder: Holder) -> None:
    """Sign with a certificate that ``sign`` itself would not take."""
    private, chain = holder.write(artifact.parent / "signer")
    sign_artifact(artifact, load_private_key(private, {}), chain.read_bytes())


def expect(
    root: Holder, folder: Path, subject: str = ADDRESS, issuer: str | None = None
) -> Identity:
    path = root.write(folder / "root")[1]
    return load_identity(subject, issuer, path, "release")


@pytest.mark.parametrize(
    ("name", "issuers", "subject", "issuer"),
    [
        (email(ADDRESS), {}, ADDRESS, None),
        (uri(WORKFLOW), {"issuer": LOGIN}, WORKFLOW, LOGIN),
        (uri(WORKFLOW), {"old_issuer": LOGIN}, WORKFLOW, LOGIN),
        (uri(WORKFLOW), {"issuer": LOGIN, "old_issuer": "https://old"}, WORKFLOW, LOGIN),
    ],
)
def test_who_is_named_by_an_authority_that_is_trusted_vouches(
    name: Any, issuers: dict[str, str], subject: str, issuer: str | None, root: Holder,
    between: Holder, artifact: Path, tmp_path: Path,
) -> None:  # fmt: skip
    sign(artifact, signer(between, name, **issuers))
    identity = expect(root, tmp_path, subject, issuer)
    assert require_trust(artifact, (identity,)) is identity
    assert str(identity).startswith(f"release ({subject}")


REFUSED: dict[str, tuple[Callable[[Holder, Holder], Holder], str]] = {
    "another address": (lambda _, by: signer(by, email("x@example.com")), r"for 'x@example\.com'"),
    "a longer address": (lambda _, by: signer(by, email(f"{ADDRESS}.au")), r"example\.com\.au"),
    "another kind of issuer": (
        lambda _, by: signer(by, email(ADDRESS), issuer="https://evil"), "logged in by 'https://evil'"
    ),
    "no name at all": (lambda _, by: signer(by), "for nobody"),
    "run out": (lambda _, by: signer(by, email(ADDRESS), days=(-9, -1)), "not valid at validation"),
    "not yet valid": (lambda _, by: signer(by, email(ADDRESS), days=(1, 9)), "not valid at"),
    "for servers": (
        lambda _, by: signer(by, email(ADDRESS), purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        "not for signing code",
    ),
    "not for signing": (lambda _, by: signer(by, email(ADDRESS), usage=False), "required ext"),
    "with a rider": (
        lambda _, by: signer(by, email(ADDRESS), unknown_critical=True), "critical extensions"
    ),
    "a stranger's authority": (lambda _, by: signer(authority(), email(ADDRESS)), "candidates"),
    "an authority below a stranger's": (
        lambda _, by: signer(authority(authority()), email(ADDRESS)), "candidates"
    ),
    "signed by a signer": (
        lambda _, by: signer(signer(by, email(ADDRESS)), email(ADDRESS)), "no basicConstraints"
    ),
    "an authority below one that ends": (
        lambda _, by: signer(authority(by), email(ADDRESS)), "path length"
    ),
    "without the one between": (
        lambda _, by: replace(signer(by, email(ADDRESS)), chain=()), "candidates"
    ),
    "with too many between": (
        lambda _, by: replace(signer(by, email(ADDRESS)), chain=(by.certificate,) * 9), "too many"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_who_is_not_is_told_with_the_reason(
    make: Callable[[Holder, Holder], Holder], why: str, root: Holder, between: Holder,
    artifact: Path, tmp_path: Path,
) -> None:  # fmt: skip
    attach(artifact, make(root, between))
    with pytest.raises(UntrustedError, match=why) as caught:
        require_trust(artifact, (expect(root, tmp_path),))
    assert f"must be signed by release ({ADDRESS})" in caught.value.message


def test_an_identity_names_its_issuer_or_the_certificate_names_none(
    root: Holder, artifact: Path, tmp_path: Path
) -> None:
    """A name that anybody could have logged in under somewhere else is worth nothing."""
    sign(artifact, signer(root, email(ADDRESS), issuer=LOGIN))
    with pytest.raises(UntrustedError, match="logged in by 'https://token"):
        require_trust(artifact, (expect(root, tmp_path),))
    other = publish(tmp_path, number=2)
    sign(other, signer(root, email(ADDRESS)))
    with pytest.raises(UntrustedError, match="nobody named"):
        require_trust(other, (expect(root, tmp_path, issuer=LOGIN),))


def test_a_certificate_of_another_key_lends_nothing(
    root: Holder, artifact: Path, tmp_path: Path
) -> None:
    victim, thief = signer(root, email(ADDRESS)), signer(root, email("thief@example.com"))
    attach(artifact, Holder(thief.key, victim.certificate))
    with pytest.raises(UntrustedError, match="certificate of another key"):
        require_trust(artifact, (expect(root, tmp_path),))


def test_a_key_without_a_certificate_is_nobody(
    root: Holder, artifact: Path, tmp_path: Path
) -> None:
    private, _ = signer(root, email(ADDRESS)).write(tmp_path / "signer")
    sign_artifact(artifact, load_private_key(private, {}))
    with pytest.raises(UntrustedError, match=r"signed by sha256:[0-9a-f]{16}$"):
        require_trust(artifact, (expect(root, tmp_path),))


@pytest.mark.parametrize(
    "chain", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_certificates_that_are_none(
    chain: str, root: Holder, artifact: Path, tmp_path: Path
) -> None:
    sign(artifact, signer(root, email(ADDRESS)))
    rewrite(artifact, lambda row: row.update(cert=chain))
    with pytest.raises(UntrustedError, match="cannot be read"):
        require_trust(artifact, (expect(root, tmp_path),))
    rewrite(artifact, lambda row: row.update(cert="x" * 70_000))
    with pytest.raises(CorruptError, match="too many certificates"):
        read_signatures(artifact)
    rewrite(artifact, lambda row: row.update(cert=["x"]))
    with pytest.raises(CorruptError):
        read_signatures(artifact)


def rewrite(artifact: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = artifact / SIGNATURE_NAME
    body = json.loads(path.read_text())
    change(body["signatures"][0])
    path.unlink()
    path.write_text(json.dumps(body))


def test_the_certificate_travels_beside_other_signatures(
    root: Holder, between: Holder, artifact: Path, tmp_path: Path
) -> None:
    """Whoever knows the key alone verifies it too, and one who signs later changes nothing."""
    sign(artifact, signer(between, email(ADDRESS)))
    other, _ = signer(root, email("x@example.com")).write(tmp_path / "other")
    sign_artifact(artifact, load_private_key(other, {}))
    identity = expect(root, tmp_path)
    assert require_trust(artifact, (identity,)) is identity
    public = tmp_path / "k.pub"
    subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", public], check=True)
    assert require_trust(artifact, (load_public_key(public),))


def test_sign_takes_no_certificate_that_cannot_help(root: Holder, tmp_path: Path) -> None:
    private, _ = signer(root, email(ADDRESS)).write(tmp_path / "mine")
    key = load_private_key(private, {})
    other = signer(root, email(ADDRESS)).write(tmp_path / "other")[1]
    with pytest.raises(UsageError, match="another key"):
        load_chain(other, key)
    old, nameless = signer(root, email(ADDRESS), days=(-9, -1)), signer(root)
    for holder, message in ((old, "is valid from"), (nameless, "names nobody")):
        private, chain = holder.write(tmp_path / "bad")
        with pytest.raises(UsageError, match=message):
            load_chain(chain, load_private_key(private, {}))
    (tmp_path / "none.pem").write_text("nothing")
    for path in (tmp_path / "none.pem", tmp_path / "absent.pem"):
        with pytest.raises(UsageError):
            load_chain(path, key)
        with pytest.raises(UsageError):
            load_identity(ADDRESS, None, path)


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())]
)
def test_keys_of_other_kinds(key: Any, root: Holder, artifact: Path, tmp_path: Path) -> None:
    """They do not sign here, and what they signed elsewhere vouches for nobody."""
    private, chain = signer(root, email(ADDRESS), key=key).write(tmp_path / "other")
    with pytest.raises(UsageError, match="another kind"):
        load_private_key(private, {})
    sign(artifact, signer(root, email(ADDRESS)))
    rewrite(artifact, lambda row: row.update(cert=chain.read_text()))
    with pytest.raises(UntrustedError, match="cannot be read"):
        require_trust(artifact, (expect(root, tmp_path),))


def policy(folder: Path, **fields: Any) -> dict[str, str]:
    body = {
        "keys": {}, "identities": {"ci": {"subject": ADDRESS, "trusted_root": "root.pem"}},
        "rules": [{"stores": ["*"], "require": ["ci"]}],
    }  # fmt: skip
    (folder / "policy.yaml").write_text(json.dumps({**body, **fields}))
    return {"NEURON_ARTIFACTS_POLICY": str(folder / "policy.yaml")}


def test_a_policy_asks_for_identities(root: Holder, artifact: Path, tmp_path: Path) -> None:
    root.write(tmp_path / "root")
    (required,) = load_policy(policy(tmp_path)).required("anything")
    with pytest.raises(UntrustedError, match=r"by ci \(release@example\.com\).*signed by nobody"):
        require_trust(artifact, (required,))
    sign(artifact, signer(root, email(ADDRESS)))
    assert require_trust(artifact, (required,)) is required


@pytest.mark.parametrize(
    "identity",
    [
        3, {}, {"subject": ADDRESS}, {"subject": ADDRESS, "trusted_root": 3},
        {"subject": "", "trusted_root": "root.pem"},
        {"subject": "a\nb", "trusted_root": "root.pem"},
        {"subject": ADDRESS, "trusted_root": "root.pem", "isuer": "x"},
        {"subject": ADDRESS, "trusted_root": "absent.pem"},
        {"subject": ADDRESS, "trusted_root": "policy.yaml"},
        {"subject": ADDRESS, "trusted_root": "root.pem", "issuer": None},
    ],
)  # fmt: skip
def test_a_policy_with_a_broken_identity_trusts_nobody(
    identity: Any, root: Holder, tmp_path: Path
) -> None:
    root.write(tmp_path / "root")
    with pytest.raises(UsageError):
        load_policy(policy(tmp_path, identities={"ci": identity}))


def test_a_policy_gives_a_name_once(root: Holder, tmp_path: Path) -> None:
    root.write(tmp_path / "root")
    with pytest.raises(UsageError, match="'ci' twice"):
        load_policy(policy(tmp_path, keys={"ci": "root.pem"}))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is the witness")
def test_certificates_that_openssl_makes_are_read(artifact: Path, tmp_path: Path) -> None:
    """A private authority of three commands, as `docs/trust.md` shows it."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=tmp_path)

    (tmp_path / "ca.cnf").write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\nCN=Example CA\n"
        "[ca]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\n[signer]\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=codeSigning\nsubjectAltName=email:release@example.com\n"
        "authorityKeyIdentifier=keyid\n"
    )
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        "req", "-x509", *curve, "-config", "ca.cnf", "-days", "30", "-keyout", "ca.key",
        "-out", "ca.pem",
    )  # fmt: skip
    openssl("req", *curve, "-subj", "/CN=release", "-keyout", "s.key", "-out", "s.csr")
    openssl(
        "x509", "-req", "-in", "s.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "7",
        "-CAcreateserial", "-extfile", "ca.cnf", "-extensions", "signer", "-out", "s.pem",
    )  # fmt: skip
    key = load_private_key(tmp_path / "s.key", {})
    sign_artifact(artifact, key, load_chain(tmp_path / "s.pem", key))
    assert require_trust(artifact, (load_identity(ADDRESS, None, tmp_path / "ca.pem"),))


def test_the_root_may_stand_among_the_certificates(
    root: Holder, artifact: Path, tmp_path: Path
) -> None:
    """Files of authorities often end with it; it is trusted for being named, not for being sent."""
    holder = signer(root, email(ADDRESS))
    sign(artifact, Holder(holder.key, holder.certificate, (root.certificate,)))
    assert require_trust(artifact, (expect(root, tmp_path),))
    with pytest.raises(UntrustedError):
        require_trust(artifact, (expect(authority(), tmp_path),))
