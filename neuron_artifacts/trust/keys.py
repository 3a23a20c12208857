"""Keys in the formats that cosign and openssl read: PEM, ECDSA on P-256 with SHA-256, or Ed25519.

``cryptography`` is in the ``sign`` extra and is imported when a key is first needed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import read_regular, write_atomically
from neuron_artifacts.errors import UsageError

PASSWORD_VARIABLES = ("NEURON_ARTIFACTS_KEY_PASSWORD", "COSIGN_PASSWORD")
_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True)
class PublicKey:
    """A key that vouches; ``key_id`` is the SHA-256 of its DER form, hexadecimal."""

    name: str
    key_id: str
    _key: Any

    def verifies(self, signature: bytes, data: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            _verify(self._key, signature, data)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name} (sha256:{self.key_id[:16]})"


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    public: PublicKey
    _key: Any

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec

        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            signature: bytes = self._key.sign(data, _ecdsa())
            return signature
        plain: bytes = self._key.sign(data)
        return plain


def load_public_key(path: Path, name: str | None = None) -> PublicKey:
    """Read a PEM public key.

    Raises
    ------
    UsageError
        It is not there, no key, or of another kind.
    """
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path} is no public key in PEM form that is known") from None
    return _public(key, name or path.name, path)


def load_private_key(path: Path, environ: Any = None) -> PrivateKey:
    """Read a PEM private key (PKCS#8); its password comes from the environment.

    Raises
    ------
    UsageError
        It is not there, no key, of another kind, or the password is wrong or missing.
    """
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"ENCRYPTED SIGSTORE" in data or b"ENCRYPTED COSIGN" in data:
        raise UsageError(
            f"{path} is encrypted in cosign's own way, which is not read here",
            hint="make a key with `neuron-artifacts keygen`; cosign reads it with import-key-pair",
        )
    password = next(filter(None, map((environ or os.environ).get, PASSWORD_VARIABLES)), None)
    try:
        key = load_pem_private_key(data, password.encode() if password and _locked(data) else None)
    except TypeError:
        raise UsageError(f"{path} needs a password", hint=f"set {PASSWORD_VARIABLES[0]}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path} is no private key, or the password is wrong") from None
    return PrivateKey(_public(key.public_key(), path.name, path), key)


def generate_keys(prefix: Path, environ: Any = None) -> tuple[Path, Path]:
    """Write ``<prefix>.key`` and ``<prefix>.pub``, never over something that is there.

    Raises
    ------
    UsageError
        One of them exists.
    """
    _require()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private, public = Path(f"{prefix}.key"), Path(f"{prefix}.pub")
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path} exists", hint="choose another name; keys are not replaced")
    password = next(filter(None, map((environ or os.environ).get, PASSWORD_VARIABLES)), None)
    key = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    write_atomically(
        private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked), mode=0o600
    )
    write_atomically(
        public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def _public(key: Any, name: str, path: Path) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    if not (is_p256 or isinstance(key, ed25519.Ed25519PublicKey)):
        raise UsageError(f"{path} is of another kind", hint="use ECDSA on P-256, or Ed25519")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(name, hashlib.sha256(der).hexdigest(), key)


def _verify(key: Any, signature: bytes, data: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, _ecdsa())
    else:
        key.verify(signature, data)


def _ecdsa() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    return ec.ECDSA(SHA256())


def _locked(data: bytes) -> bool:
    return b"ENCRYPTED" in data


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise UsageError(
            "signatures need the `cryptography` package",
            hint="pip install 'neuron-artifacts[sign]'",
        ) from None
