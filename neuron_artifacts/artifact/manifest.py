"""``artifact.json``: what a directory promises to hold, written last.

The manifest carries its own digest, the key document, and every file's size and SHA-256. It is
read strictly: an unknown schema is refused by number, a field of the wrong type is corruption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from neuron_artifacts._files import is_safe_relative, is_sha256, load_json_object, shorten
from neuron_artifacts.errors import CorruptError, IncompatibleError
from neuron_artifacts.key import digest_of, make_key

MANIFEST_NAME = "artifact.json"
PROVENANCE_NAME = "artifact.provenance.json"
SIGNATURE_NAME = "artifact.sig.json"
SIDECARS = frozenset({MANIFEST_NAME, PROVENANCE_NAME, SIGNATURE_NAME})
"""Files about the artifact, which its manifest cannot list."""
SCHEMA = 1
MAX_MANIFEST_BYTES = 64 << 20

UNKNOWN = "unknown"
"""What stands for a fact that nobody recorded, in an artifact that was adopted."""

Role = Literal["graph", "weights", "model"]


@dataclass(frozen=True)
class FileEntry:
    """One file of the artifact; ``path`` is relative, with forward slashes."""

    path: str
    size: int
    sha256: str
    role: Role


@dataclass(frozen=True)
class GraphEntry:
    """One compiled graph.

    ``digest`` names its source, compiler, flags and target. ``seconds`` and ``peak_memory_bytes``
    are what compiling it took, on the machine that did; ``reused_from`` is the key of the artifact
    it was taken from, or ``None`` where it was compiled for this one.
    """

    phase: str
    bucket: int
    file: str
    digest: str
    seconds: float
    peak_memory_bytes: int
    reused_from: str | None = None


@dataclass(frozen=True)
class Manifest:
    """All that ``artifact.json`` says. ``model`` and ``created_*`` inform; nothing trusts them."""

    key: str
    graphs_digest: str
    weights_digest: str
    document: Mapping[str, Any]
    backend: str
    target: str
    neuron_config: Mapping[str, Any]
    toolchain: Mapping[str, Any]
    model: Mapping[str, Any]
    graphs: tuple[GraphEntry, ...]
    files: tuple[FileEntry, ...]
    serve: Mapping[str, Any]
    created: str
    created_by: str

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def dump(self) -> bytes:
        """The bytes of ``artifact.json``."""
        body = {"schema": SCHEMA, **asdict(self)}
        body["manifest_sha256"] = digest_of(body)
        return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read ``artifact.json``.

    Raises
    ------
    IncompatibleError
        Written in a schema this version does not read.
    CorruptError
        Damaged: not JSON, a wrong type, or digests that do not hold.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise CorruptError(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
    if not data.endswith(b"}\n"):
        raise CorruptError(f"{MANIFEST_NAME} is damaged: its end is missing")
    try:
        body = load_json_object(data)
    except ValueError as error:
        raise CorruptError(f"{MANIFEST_NAME} is damaged: {error}") from None
    schema = body.pop("schema", None)
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise CorruptError(f"{MANIFEST_NAME} names no schema")
    if schema != SCHEMA:
        raise IncompatibleError(
            f"{MANIFEST_NAME} has schema {shorten(schema)}; this version reads {SCHEMA}",
            hint="use the neuron-artifacts release that wrote it, or compile again",
        )
    claimed = body.pop("manifest_sha256", None)
    try:
        if claimed != digest_of({"schema": schema, **body}):
            raise CorruptError(f"{MANIFEST_NAME} is damaged: its own digest does not hold")
        manifest = _build(body)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise CorruptError(f"{MANIFEST_NAME} is damaged: {error}") from None
    _check_consistency(manifest)
    return manifest


def _build(body: dict[str, Any]) -> Manifest:
    graphs = tuple(GraphEntry(**_typed(GraphEntry, row)) for row in _rows(body.pop("graphs")))
    files = tuple(FileEntry(**_typed(FileEntry, row)) for row in _rows(body.pop("files")))
    return Manifest(graphs=graphs, files=files, **_typed(Manifest, body))


_TYPES: dict[str, type | tuple[type, ...]] = {
    "bucket": int, "size": int, "peak_memory_bytes": int, "seconds": (int, float),
    "reused_from": (str, type(None)), "document": dict, "neuron_config": dict,
    "toolchain": dict, "model": dict, "serve": dict,
}  # fmt: skip


def _typed(cls: type, row: Mapping[str, Any]) -> dict[str, Any]:
    known = set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    for name, value in row.items():
        if name not in known:
            raise ValueError(f"unknown field {shorten(name)}")
        if not isinstance(value, _TYPES.get(name, str)) or isinstance(value, bool):
            raise ValueError(f"field {shorten(name)} has the wrong type")
        if isinstance(value, (int, float)) and value < 0:
            raise ValueError(f"field {shorten(name)} is negative")
    return dict(row)


def _rows(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("graphs and files must be lists of objects")
    return value


def _check_consistency(manifest: Manifest) -> None:
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        raise CorruptError(f"{MANIFEST_NAME} lists a file twice")
    for file in manifest.files:
        if not is_safe_relative(file.path) or file.path in SIDECARS:
            raise CorruptError(
                f"{MANIFEST_NAME} lists a file outside the artifact: {shorten(file.path)}"
            )
        if not is_sha256(file.sha256):  # it becomes the name of a file in caches and stores
            raise CorruptError(f"{MANIFEST_NAME} gives {shorten(file.path)} no SHA-256")
        if file.role not in get_args(Role):
            raise CorruptError(
                f"{MANIFEST_NAME} gives {shorten(file.path)} the unknown role {shorten(file.role)}"
            )
    lacking = [graph.file for graph in manifest.graphs if graph.file not in paths]
    if lacking:
        raise CorruptError(f"{MANIFEST_NAME} has a graph without a file: {shorten(lacking[0])}")
    try:
        graphs, weights = manifest.document["graphs"], manifest.document["weights"]
        if not isinstance(graphs, dict) or not isinstance(weights, dict):
            raise ValueError("its halves are objects")
        key = make_key(graphs, weights)
    except (KeyError, TypeError, ValueError):
        raise CorruptError(f"{MANIFEST_NAME} holds no key document") from None
    if key.key != manifest.key or key.graphs_digest != manifest.graphs_digest:
        raise CorruptError(f"{MANIFEST_NAME} has a key that is not the digest of its document")
