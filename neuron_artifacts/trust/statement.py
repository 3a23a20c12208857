"""What is said about an artifact, and by whom: an in-toto statement in a DSSE envelope.

The subject is ``artifact.json``, whose digest covers every file. The predicate is SLSA
provenance, written when the artifact was built. Formats: https://github.com/in-toto/attestation
(Statement v1), https://slsa.dev/spec/v1.0/provenance,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import load_json_object, read_regular, shorten, write_atomically
from neuron_artifacts.artifact import MANIFEST_NAME, PROVENANCE_NAME, SIGNATURE_NAME
from neuron_artifacts.errors import CorruptError, StoreError
from neuron_artifacts.trust.keys import PrivateKey, Signature, Voucher

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
_MAX_BYTES = 16 << 20
_MAX_CHAIN_BYTES = 64 << 10


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
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [_row(signature) for signature in (*kept, added)],
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
    data = _read(directory / SIGNATURE_NAME)
    if data is None:
        return None
    try:
        body = load_json_object(data)
        if body["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"payload type {shorten(body['payloadType'])}")
        payload = _decode(body["payload"])
        rows = body["signatures"]
        if not isinstance(rows, list) or len(rows) > 1000:
            raise ValueError("no list of signatures")
        signatures = tuple(map(_signature, rows))
        statement = load_json_object(payload)
        _check_statement(statement, directory)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise CorruptError(f"{SIGNATURE_NAME} is damaged: {error}") from None
    return Signatures(payload, signatures)


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


def make_provenance(
    *, builder: str, parameters: Mapping[str, Any], dependencies: list[dict[str, Any]],
    toolchain: Mapping[str, Any], began: str, ended: str,
) -> dict[str, Any]:  # fmt: skip
    """The SLSA predicate of a build. Times are ISO 8601."""
    return {
        "buildDefinition": {
            "buildType": "https://slsa.dev/build-types/neuron-artifacts/compile/v1",
            "externalParameters": dict(parameters),
            "internalParameters": {"toolchain": dict(toolchain)},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {"startedOn": began, "finishedOn": ended},
        },
    }


def read_provenance(directory: Path) -> dict[str, Any] | None:
    """The predicate written at build time, where there is one.

    Raises
    ------
    CorruptError
        It is damaged.
    """
    data = _read(directory / PROVENANCE_NAME)
    if data is None:
        return None
    try:
        body = load_json_object(data)
        if not isinstance(body["buildDefinition"]["resolvedDependencies"], list):
            raise ValueError("no list of dependencies")
        body["runDetails"]["builder"]["id"]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{PROVENANCE_NAME} is damaged: {error}") from None
    return body


def check_provenance(provenance: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Where the provenance contradicts the key document, one line each."""
    files = _mapping(_mapping(document.get("weights")).get("files"))
    told = {
        str(row.get("name")): row["digest"].get("sha256")
        for row in provenance["buildDefinition"]["resolvedDependencies"]
        if isinstance(row, Mapping) and isinstance(row.get("digest"), Mapping)
    }
    return [
        f"provenance says {shorten(name)} was {shorten(told.get(name))}, "
        f"the key says {shorten(entry['sha256'])}"
        for name, entry in sorted(files.items())
        if isinstance(entry, Mapping) and "sha256" in entry and told.get(name) != entry["sha256"]
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _statement(directory: Path) -> bytes:
    manifest = _read(directory / MANIFEST_NAME)
    if manifest is None:
        raise CorruptError(f"{directory} has no {MANIFEST_NAME}")
    body = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": MANIFEST_NAME, "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}}
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": read_provenance(directory) or {},
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _check_statement(statement: Mapping[str, Any], directory: Path) -> None:
    if statement["_type"] != STATEMENT_TYPE:
        raise ValueError(f"statement type {shorten(statement['_type'])}")
    digests = {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
    manifest = _read(directory / MANIFEST_NAME)
    actual = None if manifest is None else hashlib.sha256(manifest).hexdigest()
    if actual is None or digests.get(MANIFEST_NAME) != actual:
        raise ValueError(f"it was signed for another {MANIFEST_NAME}")


def _pre_authentication(payload: bytes) -> bytes:
    """DSSE's PAE: what is really signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path, _MAX_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptError(f"{path.name} is damaged: {error}") from None
    except OSError as error:
        raise CorruptError(f"{path.name} cannot be read: {error.strerror}") from None
