"""Certificate authorities for tests, as strict or as sloppy as asked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_NUMBERS = itertools.count(1)

FULCIO_ISSUER = "1.3.6.1.4.1.57264.1.8"
FULCIO_OLD_ISSUER = "1.3.6.1.4.1.57264.1.1"


@dataclass(frozen=True)
class Holder:
    """A key and its certificate, with those between it and the root."""

    key: Any
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    def write(self, prefix: Path) -> tuple[Path, Path]:
        """``<prefix>.key`` and ``<prefix>.pem``, the certificate first."""
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        prefix.with_suffix(".key").write_bytes(private)
        chain = (self.certificate, *self.chain)
        prefix.with_suffix(".pem").write_bytes(
            b"".join(c.public_bytes(Encoding.PEM) for c in chain)
        )
        return prefix.with_suffix(".key"), prefix.with_suffix(".pem")


def authority(by: Holder | None = None, **options: Any) -> Holder:
    """A root, or an authority below another; each has a name of its own."""
    return _issue(f"authority {next(_NUMBERS)}", by, is_authority=True, **options)


def signer(by: Holder, *names: x509.GeneralName, **options: Any) -> Holder:
    """Somebody an authority vouches for."""
    return _issue(f"signer {next(_NUMBERS)}", by, names=names, **options)


def email(address: str) -> x509.GeneralName:
    return x509.RFC822Name(address)


def uri(address: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(address)


def _issue(
    subject: str, by: Holder | None, *, names: tuple[x509.GeneralName, ...] = (),
    is_authority: bool = False, days: tuple[int, int] = (-1, 30), usage: bool = True,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CODE_SIGNING,
    issuer: str | None = None, old_issuer: str | None = None, path_length: int | None = None,
    key: Any = None, unknown_critical: bool = False,
) -> Holder:  # fmt: skip
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(timezone.utc)
    parent = by.certificate.subject if by else _name(subject)
    builder = (
        x509.CertificateBuilder(parent, _name(subject), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if by:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
        builder = builder.add_extension(above, False)
    for extension, critical in _extensions(
        names, is_authority, usage, purpose, issuer, old_issuer, path_length, unknown_critical
    ):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(by.key if by else key, hashes.SHA256())
    is_below_root = by is None or by.certificate.subject == by.certificate.issuer
    return Holder(key, certificate, () if is_below_root else (by.certificate, *by.chain))


def _extensions(
    names: tuple[x509.GeneralName, ...], is_authority: bool, usage: bool,
    purpose: x509.ObjectIdentifier | None, issuer: str | None, old_issuer: str | None,
    path_length: int | None, unknown_critical: bool,
) -> list[tuple[x509.ExtensionType, bool]]:  # fmt: skip
    found: list[tuple[x509.ExtensionType, bool]] = []
    if is_authority:
        found.append((x509.BasicConstraints(ca=True, path_length=path_length), True))
    elif purpose:
        found.append((x509.ExtendedKeyUsage([purpose]), False))
    if usage:
        found.append((_usage(is_authority), True))
    if names:
        found.append((x509.SubjectAlternativeName(names), True))
    if issuer is not None:
        value = b"\x0c" + bytes([len(issuer)]) + issuer.encode()
        found.append((_extension(FULCIO_ISSUER, value), False))
    if old_issuer is not None:
        found.append((_extension(FULCIO_OLD_ISSUER, old_issuer.encode()), False))
    if unknown_critical:
        found.append((_extension("1.2.3.4.5", b"\x05\x00"), True))
    return found


def _extension(oid: str, value: bytes) -> x509.ExtensionType:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
