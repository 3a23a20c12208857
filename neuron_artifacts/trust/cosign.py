"""Private keys as ``cosign generate-key-pair`` writes them.

A PEM block whose body is JSON: the PKCS#8 key in a NaCl secret box, under a key that scrypt makes
of the password. Format: ``encrypted.Encrypt`` of github.com/secure-systems-lab/go-securesystemslib,
as cosign's ``pkg/cosign/keys.go`` calls it. ``PyNaCl`` is in the ``sign`` extra.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

from neuron_artifacts._files import load_json_object
from neuron_artifacts.errors import UsageError

_TYPES = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")
_MOST_MEMORY = 256 << 20
"""Bytes scrypt may take; the strongest preset of the library takes half of it."""


def is_cosign_key(data: bytes) -> bool:
    """Whether a PEM file holds a private key in cosign's own form."""
    return any(b"-----BEGIN %s-----" % kind in data for kind in _TYPES)


def unlock(data: bytes, password: str, path: Path) -> bytes:
    """The PKCS#8 key, DER, in a file of cosign's.

    Raises
    ------
    UsageError
        It is damaged, of another form, the password is wrong, or PyNaCl is missing.
    """
    try:
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox
    except ImportError:
        raise UsageError(
            f"{path} is encrypted in cosign's own way, which needs the `PyNaCl` package",
            hint="pip install 'neuron-artifacts[sign]'",
        ) from None
    try:
        body = load_json_object(_body(data))
        key = _derive(body["kdf"], password.encode())
        if body["cipher"]["name"] != "nacl/secretbox":
            raise ValueError("another cipher")
        nonce, ciphertext = _bytes(body["cipher"]["nonce"]), _bytes(body["ciphertext"])
        if len(nonce) != SecretBox.NONCE_SIZE:
            raise ValueError("another nonce")
        return SecretBox(key).decrypt(ciphertext, nonce)
    except CryptoError:
        why = "the password is wrong" if password else "it needs a password"
        raise UsageError(
            f"{path} cannot be unlocked: {why}", hint="set COSIGN_PASSWORD to its password"
        ) from None
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise UsageError(f"{path} is no key of cosign's in a form that is known") from None


def _body(data: bytes) -> bytes:
    """What stands between the first pair of lines that mark a key."""
    for kind in _TYPES:
        _, found, rest = data.partition(b"-----BEGIN %s-----" % kind)
        body, ended, _ = rest.partition(b"-----END %s-----" % kind)
        if found and ended:
            return base64.b64decode(b"".join(body.split()), validate=True)
    raise ValueError("no such block")


def _derive(kdf: Any, password: bytes) -> bytes:
    cost, block, lanes = (kdf["params"][name] for name in "Nrp")
    if kdf["name"] != "scrypt" or not all(type(n) is int for n in (cost, block, lanes)):
        raise ValueError("another derivation")
    if min(cost, block, lanes) < 1 or lanes > 16 or 128 * cost * block > _MOST_MEMORY:
        raise ValueError("absurd parameters")
    return hashlib.scrypt(
        password, salt=_bytes(kdf["salt"]), n=cost, r=block, p=lanes, maxmem=2 * _MOST_MEMORY,
        dklen=32,
    )  # fmt: skip


def _bytes(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)
