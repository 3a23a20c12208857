"""The small document that makes an artifact visible in a remote store.

It carries ``artifact.json`` byte for byte, since a signature covers those bytes, and adds what a
reader needs to get every file: which weights a hub has, and the signature's own files.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from neuron_artifacts._files import is_safe_relative, is_sha256, load_json_object, shorten
from neuron_artifacts.artifact import SIDECARS, SIGNATURE_NAME, FileEntry, Manifest, parse_manifest
from neuron_artifacts.errors import CorruptError, IncompatibleError

SCHEMA = 1
MAX_BYTES = 64 << 20

_REPO = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Reference:
    """Where a hub has a file, instead of the remote store."""

    repo: str
    revision: str
    path: str


@dataclass(frozen=True)
class Sidecar:
    """A file beside ``artifact.json`` that the manifest does not list: signature, provenance."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class RemoteManifest:
    """``artifacts/<key>.json``. ``publication`` tells one publisher's from another's."""

    artifact_json: bytes
    sidecars: tuple[Sidecar, ...] = ()
    references: Mapping[str, Reference] = field(default_factory=dict)
    publication: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def artifact(self) -> Manifest:
        return parse_manifest(self.artifact_json)

    @property
    def stored(self) -> tuple[FileEntry | Sidecar, ...]:
        """The files whose bytes lie in the remote store itself."""
        files = [f for f in self.artifact.files if f.sha256 not in self.references]
        return (*files, *self.sidecars)

    @property
    def signature(self) -> Sidecar | None:
        """The signatures it was published with."""
        return next((s for s in self.sidecars if s.path == SIGNATURE_NAME), None)

    def dump(self) -> bytes:
        body = {
            "schema": SCHEMA,
            "publication": self.publication,
            "artifact": self.artifact_json.decode(),
            "sidecars": [asdict(sidecar) for sidecar in self.sidecars],
            "references": {digest: asdict(ref) for digest, ref in self.references.items()},
        }
        return json.dumps(body, ensure_ascii=False, indent=1).encode() + b"\n"


def parse_remote_manifest(data: bytes, key: str, where: str) -> RemoteManifest:
    """Read what a remote store holds under ``key``, trusting nothing in it.

    Raises
    ------
    CorruptError
        Damaged, or the manifest of another key.
    IncompatibleError
        Written in a schema this version does not read.
    """
    try:
        body = load_json_object(data[: MAX_BYTES + 1])
        if body["schema"] != SCHEMA:
            schema = shorten(body["schema"])
            raise IncompatibleError(
                f"{where} has {key} in schema {schema}; this version reads {SCHEMA}",
                hint="use the neuron-artifacts release that pushed it",
            )
        manifest = RemoteManifest(
            str(body["artifact"]).encode(),
            tuple(_sidecar(row) for row in body["sidecars"]),
            {digest: _reference(digest, row) for digest, row in body["references"].items()},
            str(body["publication"]),
        )
        found = manifest.artifact.key
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = shorten(str(error))
        raise CorruptError(f"{where} has a damaged manifest for {key}: {told}") from None
    if found != key:
        raise CorruptError(f"{where} has {found} where {key} should be")
    return manifest


def _sidecar(row: Mapping[str, Any]) -> Sidecar:
    sidecar = Sidecar(**row)
    if sidecar.path not in SIDECARS or not is_sha256(sidecar.sha256):
        raise ValueError(f"{sidecar.path!r} is no file beside an artifact")
    if not isinstance(sidecar.size, int) or not 0 <= sidecar.size <= MAX_BYTES:
        raise ValueError(f"{sidecar.path!r} has an impossible size")
    return sidecar


def _reference(digest: str, row: Mapping[str, Any]) -> Reference:
    """A stranger's words, which become a URL and a path in the hub's cache."""
    reference = Reference(**row)
    repo, revision, path = reference.repo, reference.revision, reference.path
    if not (
        is_sha256(digest) and isinstance(path, str) and is_safe_relative(path)
        and _REPO.fullmatch(repo) and ".." not in repo and _COMMIT.fullmatch(revision)
    ):  # fmt: skip
        raise ValueError("a reference is malformed")
    return reference
