"""Who vouches for an artifact: its in-toto statement in a DSSE envelope, signed by any number.

The statement is about ``artifact.json``, whose digests cover every file, and says how the artifact
was built (:mod:`neuron_artifacts.trust.provenance`). Format:
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import load_json_object, shorten, write_atomically
from neuron_artifacts.artifact import MANIFEST_NAME, PROVENANCE_NAME, SIGNATURE_NAME
from neuron_artifacts.errors import CorruptError, StoreError
from neuron_artifacts.trust.keys import PrivateKey, Signature, Voucher
from neuron_artifacts.trust.provenance import (
    make_statement,
    read_beside,
    read_provenance,
    read_statement,
)

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MAX_CHAIN_BYTES = 64 << 10
_MOST = 1000  # signatures of one artifact
_MOST_JOINED_BYTES = 1 << 20


@dataclass(frozen=True)
class Signatures:
    """An envelope read from an artifact: the exact bytes that are signed, and by which keys."""

    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def signed_bytes(self) -> bytes:
        return _pre_authentication(self.payload)

    @property
    def key_ids(self) -> tuple[str, ...]:
        return tuple(signature.key_id for signature in self.signatures)

    def signed_by(self, voucher: Voucher) -> bool:
        """Whether ``voucher`` signed it; the stated key id is a hint, and proves nothing."""
        data = self.signed_bytes
        return any(voucher.vouches(signature, data) for signature in self.signatures)


def sign_artifact(directory: Path, key: PrivateKey, chain: bytes = b"") -> Path:
    """Add a signature of ``key`` to an artifact, with its certificates in PEM; others' stay.

    Raises
    ------
    CorruptError
        The signatures that are there are damaged, or are of another manifest.
    StoreError
        The directory cannot be written.
    """
    found = read_signatures(directory)
    payload = found.payload if found else _statement(directory)
    key_id = key.public.key_id
    kept = [s for s in (found.signatures if found else ()) if s.key_id != key_id]
    added = Signature(key_id, key.sign(_pre_authentication(payload)), chain)
    return _write(directory, Signatures(payload, (*kept, added)))


def join_signatures(directory: Path, envelopes: Iterable[bytes]) -> int:
    """Add signatures that were made elsewhere to those of an artifact; how many were new.

    Only those over the same statement count, about the manifest that lies there. All others are
    passed over: who may write to a remote store can put them there, and must spoil nothing.

    Raises
    ------
    StoreError
        The directory cannot be read or written.
    """
    manifest = read_beside(directory, MANIFEST_NAME) or b""
    try:
        found, written = read_signatures(directory), read_beside(directory, PROVENANCE_NAME)
    except CorruptError:
        return 0
    joined = found or (Signatures(written, ()) if written else None)
    before = len(joined.signatures) if joined else 0
    size = len(read_beside(directory, SIGNATURE_NAME) or b"")
    for envelope in envelopes:
        if size + len(envelope) > _MOST_JOINED_BYTES:
            continue
        with suppress(CorruptError):
            other = parse_signatures(envelope, manifest)
            if joined is None or joined.payload == other.payload:
                rows = (*(joined.signatures if joined else ()), *other.signatures)
                joined = Signatures(other.payload, tuple(dict.fromkeys(rows))[:_MOST])
                size += len(envelope)
    new = len(joined.signatures) - before if joined else 0
    if joined and new:
        _write(directory, joined)
    return new


def _write(directory: Path, found: Signatures) -> Path:
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(found.payload).decode(),
        "signatures": [_row(signature) for signature in found.signatures],
    }
    target = directory / SIGNATURE_NAME
    try:
        write_atomically(target, json.dumps(envelope, indent=1).encode() + b"\n", mode=0o444)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}") from error
    return target


def read_signatures(directory: Path) -> Signatures | None:
    """The signatures of an artifact, whose subject is the manifest that lies there now.

    Raises
    ------
    CorruptError
        They are damaged, or are of another manifest.
    """
    data = read_beside(directory, SIGNATURE_NAME)
    if data is None:
        return None
    return parse_signatures(data, read_beside(directory, MANIFEST_NAME) or b"")


def parse_signatures(data: bytes, manifest: bytes) -> Signatures:
    """An envelope, whose subject is that manifest. Raises as :func:`read_signatures`."""
    try:
        body = load_json_object(data)
        if body["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"payload type {shorten(body['payloadType'])}")
        payload = _decode(body["payload"])
        rows = body["signatures"]
        if not isinstance(rows, list) or len(rows) > _MOST:
            raise ValueError("no list of signatures")
        signatures = tuple(map(_signature, rows))
        read_statement(payload, manifest)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise CorruptError(f"{SIGNATURE_NAME} is damaged: {error}") from None
    return Signatures(payload, signatures)


def check_signed_statement(found: Signatures, directory: Path) -> list[str]:
    """Where the statement that was signed is another than the one that lies there."""
    written = read_beside(directory, PROVENANCE_NAME)
    if written is None or written == found.payload:
        return []
    return [f"{PROVENANCE_NAME} is another than the one that was signed"]


def _row(signature: Signature) -> dict[str, str]:
    """A signature of the envelope; ``cert`` is ours, and readers ignore what they do not know."""
    row = {"keyid": signature.key_id, "sig": base64.b64encode(signature.value).decode()}
    return {**row, "cert": signature.chain.decode()} if signature.chain else row


def _signature(row: Mapping[str, Any]) -> Signature:
    key_id, chain = str(row.get("keyid", "")), row.get("cert", "")
    if not key_id.isprintable():  # it is shown to people
        raise ValueError("a key id that cannot be printed")
    if len(chain) > _MAX_CHAIN_BYTES:
        raise ValueError("too many certificates")
    return Signature(key_id, _decode(row["sig"]), chain.encode("ascii"))


def _decode(text: str) -> bytes:
    """Base64 in either of its alphabets, as the specification allows."""
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


def _statement(directory: Path) -> bytes:
    """What is signed: the statement written when it was built, or one that says no more."""
    read_provenance(directory)  # a damaged one is not signed
    manifest = read_beside(directory, MANIFEST_NAME)
    if manifest is None:
        raise CorruptError(f"{directory} has no {MANIFEST_NAME}")
    return read_beside(directory, PROVENANCE_NAME) or make_statement(manifest, {})


def _pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE: what is really signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
