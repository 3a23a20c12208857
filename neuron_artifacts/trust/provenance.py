"""How an artifact came to be: an in-toto statement about ``artifact.json``, SLSA's predicate in it.

Written with every build, beside the manifest, and the very bytes that are signed later. Formats:
https://github.com/in-toto/attestation (Statement v1), https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuron_artifacts._files import (
    advise,
    is_about_access,
    load_json_object,
    read_regular,
    shorten,
)
from neuron_artifacts.artifact import MANIFEST_NAME, PROVENANCE_NAME, Manifest
from neuron_artifacts.errors import CorruptError, StoreError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
MAX_BYTES = 16 << 20


def make_predicate(
    *, kind: str, builder: str, parameters: Mapping[str, Any], command: Sequence[str],
    dependencies: list[dict[str, Any]], toolchain: Mapping[str, Any], began: str, ended: str,
) -> dict[str, Any]:  # fmt: skip
    """The SLSA predicate of a build. ``kind`` is ``compile`` or ``adopt``; times are ISO 8601."""
    return {
        "buildDefinition": {
            "buildType": f"urn:neuron-artifacts:{kind}:v1",
            "externalParameters": dict(parameters),
            "internalParameters": {"toolchain": dict(toolchain), "command": list(command)},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {"startedOn": began, "finishedOn": ended},
        },
    }


def make_statement(artifact_json: bytes, predicate: Mapping[str, Any]) -> bytes:
    """The statement that a predicate holds for the manifest with these bytes."""
    digest = hashlib.sha256(artifact_json).hexdigest()
    body = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST_NAME, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_statement(data: bytes, artifact_json: bytes) -> dict[str, Any]:
    """A statement about the manifest with these bytes.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError
        It is none, or about another manifest.
    """
    statement = load_json_object(data)
    for name, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement[name] != wanted:
            raise ValueError(f"{name} is {shorten(statement[name])}")
    digests = {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
    if digests.get(MANIFEST_NAME) != hashlib.sha256(artifact_json).hexdigest():
        raise ValueError(f"it is about another {MANIFEST_NAME}")
    return statement


def read_provenance(directory: Path) -> dict[str, Any] | None:
    """The predicate written at build time, where there is one.

    Raises
    ------
    CorruptError
        It is damaged, or about another manifest.
    """
    data, manifest = read_beside(directory, PROVENANCE_NAME), read_beside(directory, MANIFEST_NAME)
    if data is None:
        return None
    try:
        body: dict[str, Any] = read_statement(data, manifest or b"")["predicate"]
        for part in ("externalParameters", "internalParameters"):
            if not isinstance(body["buildDefinition"][part], dict):
                raise ValueError(f"no {part}")
        if not isinstance(body["buildDefinition"]["resolvedDependencies"], list):
            raise ValueError("no list of dependencies")
        if not isinstance(body["runDetails"]["builder"]["id"], str):
            raise ValueError("no builder")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorruptError(f"{PROVENANCE_NAME} is damaged: {error}") from None
    return body


def check_provenance(predicate: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """Where the provenance contradicts the artifact, one line each."""
    definition = predicate["buildDefinition"]
    parameters = definition["externalParameters"]
    told = [("key", parameters.get("key"), manifest.key)]
    told += [("backend", parameters.get("backend"), manifest.backend)]
    tools = _mapping(definition["internalParameters"].get("toolchain"))
    told += [(f"toolchain {n}", tools.get(n), v) for n, v in sorted(manifest.toolchain.items())]
    inputs = {
        str(row.get("name")): row["digest"].get("sha256")
        for row in definition["resolvedDependencies"]
        if isinstance(row, Mapping) and isinstance(row.get("digest"), Mapping)
    }
    told += [(n, inputs.get(n), digest) for n, digest in sorted(_inputs(manifest).items())]
    return [
        f"provenance says {shorten(name)} was {shorten(said)}, the artifact says {shorten(value)}"
        for name, said, value in told
        if said != value
    ]


def read_beside(directory: Path, name: str) -> bytes | None:
    """A small file of an artifact, where there is one.

    Raises
    ------
    CorruptError
        It is damaged, or something else than a file.
    StoreError
        The system does not let us read it.
    """
    try:
        return read_regular(directory / name, MAX_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptError(f"{name} is damaged: {error}") from None
    except OSError as error:
        kind = StoreError if is_about_access(error) else CorruptError
        raise kind(f"{name} cannot be read: {error.strerror}", hint=advise(error)) from None


def _inputs(manifest: Manifest) -> dict[str, Any]:
    """Digests of the model's files, as the key has them."""
    weights = _mapping(manifest.document.get("weights"))
    files = {
        name: entry["sha256"]
        for name, entry in _mapping(weights.get("files")).items()
        if isinstance(entry, Mapping) and "sha256" in entry
    }
    return {**files, **_mapping(weights.get("assets"))}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
