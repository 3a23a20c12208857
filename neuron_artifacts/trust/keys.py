"""Keys in the formats that cosign and openssl read: PEM, ECDSA on P-256 with SHA-256, or Ed25519.

``cryptography`` is in the ``sign`` extra and is imported when a key is first needed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from neuron_artifacts._files import read_regular, write_atomically
from neuron_artifacts.errors import UsageError
from neuron_artifacts.trust.cosign import is_cosign_key, unlock

PASSWORD_VARIABLES = ("NEURON_ARTIFACTS_KEY_PASSWORD", "COSIGN_PASSWORD")
_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True)
class Signature:
    """What a signer left: the id of the key, which is a hint, the bytes, and certificates.

    ``chain`` is PEM: the key's own certificate first; empty where the key came without one.
    """

    key_id: str
    value: bytes
    chain: bytes = b""


class Voucher(Protocol):
    """Somebody a policy can ask for; ``str`` gives what a person should read."""

    @property
    def name(self) -> str: ...

    def vouches(self, signature: Signature, data: bytes) -> bool:
        """Whether a signature of ``data`` is theirs."""


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

    def vouches(self, signature: Signature, data: bytes) -> bool:
        return self.verifies(signature.value, data)

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
        key = load_pem_public_key(read_key_file(path))
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path} is no public key in PEM form that is known") from None
    return public_key_of(key, name or path.name, path)


def load_private_key(path: Path, environ: Any = None) -> PrivateKey:
    """Read a PEM private key, PKCS#8 or cosign's own; its password comes from the environment.

    Raises
    ------
    UsageError
        It is not there, no key, of another kind, or the password is wrong or missing.
    """
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        load_der_private_key,
        load_pem_private_key,
    )

    data, password = read_key_file(path), _password(environ)
    try:
        if is_cosign_key(data):
            key = load_der_private_key(unlock(data, password or "", path), None)
        else:
            locked = b"ENCRYPTED" in data
            key = load_pem_private_key(data, password.encode() if password and locked else None)
    except TypeError:
        raise UsageError(f"{path} needs a password", hint=f"set {PASSWORD_VARIABLES[0]}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path} is no private key, or the password is wrong") from None
    return PrivateKey(public_key_of(key.public_key(), path.name, path), key)


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
    password = _password(environ)
    key = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    write_atomically(
        private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked), mode=0o600
    )
    write_atomically(
        public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def public_key_of(key: Any, name: str, path: Path) -> PublicKey:
    """A key of ``cryptography`` as one of ours; ``path`` is for the message.

    Raises
    ------
    UsageError
        It is of a kind that is not used here.
    """
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


def _password(environ: Any) -> str | None:
    return next(filter(None, map((environ or os.environ).get, PASSWORD_VARIABLES)), None)


def read_key_file(path: Path) -> bytes:
    """The bytes of a file of keys or certificates.

    Raises
    ------
    UsageError
        It cannot be read, or ``cryptography`` is missing.
    """
    _require()
    try:
        return read_regular(path, _MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is {error}") from None


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise UsageError(
            "signatures need the `cryptography` package",
            hint="pip install 'neuron-artifacts[sign]'",
        ) from None
