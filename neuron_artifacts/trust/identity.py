"""Identities: whom a certificate names, by an authority that is trusted.

A signature may bring the certificate of its key along. It vouches for an identity if the chain
leads to one of the roots named here, all of it is valid now, the certificate is for signing, and it
names the identity. ``cryptography.x509.verification`` judges chains (RFC 5280), offline. Where the
authority writes what Fulcio writes, a certificate also says who logged the person in
(https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md), and that must be named as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from neuron_artifacts._files import shorten
from neuron_artifacts.errors import UsageError
from neuron_artifacts.trust.keys import PrivateKey, Signature, public_key_of, read_key_file

_ISSUER, _OLD_ISSUER = "1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1"
_UTF8_STRING = 0x0C
_MOST_CERTIFICATES = 8


@dataclass(frozen=True)
class Identity:
    """Somebody a certificate can name: an e-mail address, a URI or a host.

    ``issuer`` is who logged them in, for certificates that say; ``roots`` are the authorities.
    """

    name: str
    subject: str
    issuer: str | None
    roots: tuple[Any, ...]

    def vouches(self, signature: Signature, data: bytes) -> bool:
        return self.doubt(signature, data) is None

    def doubt(self, signature: Signature, data: bytes) -> str | None:
        """Why a signature of ``data`` is not this identity's; ``None`` if it is."""
        if not signature.chain:
            return "without a certificate"
        try:
            leaf, *others = _read_chain(signature.chain)
            key = public_key_of(leaf.public_key(), "certificate", Path("certificate"))
            names, issuer = _names(leaf), _issuer(leaf)
        except (ValueError, UsageError):
            return "with a certificate that cannot be read"
        if not key.verifies(signature.value, data):
            return "with the certificate of another key"
        told = f"with a certificate for {' and '.join(map(shorten, names)) or 'nobody'}"
        if self.subject not in names:
            return told
        if issuer != self.issuer:
            return f"{told}, logged in by {shorten(issuer) if issuer else 'nobody named'}"
        refusal = _judge_chain(leaf, others, self.roots)
        return f"{told}, which is not valid: {refusal}" if refusal else None

    def __str__(self) -> str:
        by = f", logged in by {self.issuer}" if self.issuer else ""
        return f"{self.name} ({self.subject}{by})"


def load_identity(
    subject: str, issuer: str | None, roots: Path, name: str | None = None
) -> Identity:
    """An identity, vouched for by the authorities whose certificates are in a PEM file.

    Raises
    ------
    UsageError
        The file cannot be read or holds no certificate, or ``cryptography`` is missing or old.
    """
    if not subject.isprintable() or not (issuer or "-").isprintable() or not subject:
        raise UsageError(f"{shorten(subject)} is no identity")
    return Identity(name or "identity", subject, issuer, tuple(_load(roots)))


def load_chain(path: Path, key: PrivateKey) -> bytes:
    """A PEM file's certificates, the key's own first, then those between it and the root.

    Raises
    ------
    UsageError
        It holds none, the first is another key's, has run out, or names nobody.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    chain = _load(path)
    leaf, now = chain[0], datetime.now(timezone.utc)
    found = public_key_of(leaf.public_key(), path.name, path)
    if found.key_id != key.public.key_id:
        raise UsageError(
            f"{path} begins with the certificate of another key than {key.public}",
            hint="the signer's own certificate comes first, then intermediates",
        )
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise UsageError(
            f"{path} is valid from {leaf.not_valid_before_utc:%F} to {leaf.not_valid_after_utc:%F}"
        )
    if not _names(leaf):
        raise UsageError(
            f"{path} names nobody", hint="a subject alternative name says whose certificate it is"
        )
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def _load(path: Path) -> list[Any]:
    data = read_key_file(path)
    from cryptography.x509 import verification

    if not hasattr(verification, "ExtensionPolicy"):
        raise UsageError(
            "identities need version 45 of the `cryptography` package, or a later one",
            hint="pip install -U 'neuron-artifacts[sign]'",
        )
    try:
        return _read_chain(data)
    except ValueError:
        raise UsageError(f"{path} holds no certificates in PEM form") from None


def _read_chain(data: bytes) -> list[Any]:
    """Certificates in PEM, whose extensions can be read; a ValueError says that they are not."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = x509.load_pem_x509_certificates(data)
        for certificate in found:
            certificate.public_key()
            _ = certificate.extensions
    except (
        x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion,
        UnsupportedAlgorithm,
    ) as error:  # fmt: skip
        raise ValueError(str(error)) from None
    return found


def _names(certificate: Any) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return tuple(name.value for name in found if isinstance(name, kinds))


def _issuer(certificate: Any) -> str | None:
    """Who logged the person in: a UTF8String, or in certificates of old the bare text."""
    from cryptography import x509

    found = {
        extension.oid.dotted_string: extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    if _ISSUER in found:
        data = found[_ISSUER]
        if len(data) < 2 or data[0] != _UTF8_STRING or data[1] != len(data) - 2 or data[1] > 127:
            raise ValueError("an issuer in another form")
        return str(data[2:], "utf-8")
    return str(found[_OLD_ISSUER], "utf-8") if _OLD_ISSUER in found else None


def _judge_chain(leaf: Any, others: list[Any], roots: tuple[Any, ...]) -> str | None:
    """Why the chain is not valid now, in a few words; ``None`` if it is."""
    from cryptography.x509 import verification

    policy = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(datetime.now(timezone.utc))
        .extension_policies(ca_policy=_for_authorities(), ee_policy=_for_signers())
    )
    if len(others) >= _MOST_CERTIFICATES:
        return "too many certificates"
    try:
        policy.build_client_verifier().verify(leaf, others)
    except verification.VerificationError as error:
        return shorten(str(error).removeprefix("validation failed: ").partition(" (enc")[0], 120)
    return None


def _for_authorities() -> Any:
    """Those of the web, save that theirs need not be for the web."""
    from cryptography import x509
    from cryptography.x509 import verification

    rules = verification.ExtensionPolicy.webpki_defaults_ca()
    return rules.may_be_present(x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, None)


def _for_signers() -> Any:
    """It names somebody, may sign, and is for code where it says what it is for."""
    from cryptography import x509
    from cryptography.x509 import verification
    from cryptography.x509.oid import ExtendedKeyUsageOID

    def may_sign(_policy: Any, _certificate: Any, usage: Any) -> None:
        if not usage.digital_signature:
            raise ValueError("it may not sign")

    def is_for_code(_policy: Any, _certificate: Any, usage: Any) -> None:
        if usage is not None and ExtendedKeyUsageOID.CODE_SIGNING not in usage:
            raise ValueError("it is not for signing code")

    either = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.SubjectAlternativeName, either, None)
        .require_present(x509.KeyUsage, either, may_sign)
        .may_be_present(x509.ExtendedKeyUsage, either, is_for_code)
    )
