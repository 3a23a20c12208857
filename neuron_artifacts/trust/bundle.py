"""A signature as a Sigstore bundle, which ``cosign verify-blob-attestation`` takes.

Format: ``sigstore_bundle.proto`` of github.com/sigstore/protobuf-specs, version 0.3; the hint is
what cosign writes (``internal/key/svkeypair.go``). No entry of a transparency log is in it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from neuron_artifacts.trust.keys import Signature
from neuron_artifacts.trust.statement import PAYLOAD_TYPE

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def make_bundle(payload: bytes, signature: Signature) -> bytes:
    """The bytes of a bundle that holds one signature of an in-toto statement."""
    body = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**_material(signature), "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _text(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _text(signature.value), "keyid": ""}],
        },
    }
    return json.dumps(body, indent=1).encode() + b"\n"


def _material(signature: Signature) -> dict[str, Any]:
    """What a verifier starts from: the signer's certificate, or which key it needs."""
    if not signature.chain:
        return {"publicKey": {"hint": _text(bytes.fromhex(signature.key_id))}}
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    leaf = load_pem_x509_certificates(signature.chain)[0]
    return {"certificate": {"rawBytes": _text(leaf.public_bytes(Encoding.DER))}}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
