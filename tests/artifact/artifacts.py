"""Small artifacts made by hand: real files, a real manifest, nothing to run."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import GraphEntry, Manifest
from neuron_artifacts.key import ArtifactKey, make_key
from neuron_artifacts.store import LocalStore

ELF = b"\x7fELF" + bytes(60)


def make_safetensors(values: bytes = b"\1\2\3\4") -> bytes:
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + values


def make_document(**graphs: Any) -> ArtifactKey:
    return make_key(
        {"backend": "cpu", **graphs},
        {"files": {"model.safetensors": {"sha256": "0" * 64}}, "assets": {}, "serving": {}},
    )


def make_manifest(key: ArtifactKey, files: Any, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "key": key.key,
        "graphs_digest": key.graphs_digest,
        "weights_digest": key.weights_digest,
        "document": key.document,
        "backend": "cpu",
        "target": "x86-64-v3",
        "neuron_config": {"batch_size": 1},
        "toolchain": {"compiler": "gcc"},
        "model": {"name": "m", "revision": None},
        "graphs": (GraphEntry("context_encoding", 16, "graphs/a.so", "1" * 64, 0.5, 1000),),
        "files": files,
        "serve": {"max_model_len": 16},
        "created": "2026-01-01T00:00:00Z",
        "created_by": "neuron-artifacts test",
    }
    return Manifest(**{**fields, **changes})


def publish(base: Path, destination: Path | None = None, **graphs: Any) -> Path:
    """Publish a hand-made artifact through the real staging area."""
    store = LocalStore(base, DigestCache(base / "digests"))
    key = make_document(**graphs)
    destination = destination or store.path(key.key)
    with store.stage(key.key, destination) as staging:
        staging.write("graphs/a.so", ELF, "graph")
        staging.write("weights/model.safetensors", make_safetensors(), "weights")
        staging.write("config.json", b"{}\n", "model")
        assert staging.publish(make_manifest(key, staging.files), destination)
    return destination
