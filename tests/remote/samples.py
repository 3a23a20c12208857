"""Artifacts to move: real files of some size, and a second one that shares its weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from neuron_artifacts._files import DigestCache
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import ELF, make_document, make_manifest, make_safetensors

KB = 1024


def local_store(base: Path) -> LocalStore:
    """A store with a digest cache of its own."""
    return LocalStore(base, DigestCache(base / "digests"))


def make_artifact(
    base: Path,
    *,
    shards: int = 3,
    shard_bytes: int = 64 * KB,
    seed: int = 0,
    model: dict[str, Any] | None = None,
    **graphs: Any,
) -> Path:
    """Publish an artifact; the same ``seed`` gives the same weights, ``graphs`` other graphs."""
    store, key = local_store(base), make_document(**graphs)
    with store.stage(key.key) as staging:
        staging.write("graphs/a.so", ELF + repr(graphs).encode(), "graph")
        for number in range(shards):
            data = random.Random(f"{seed}-{number}").randbytes(shard_bytes)
            staging.write(f"weights/{number}.safetensors", make_safetensors(data), "weights")
        staging.write("config.json", b"{}\n", "model")
        staging.write("empty", b"", "model")
        manifest = make_manifest(key, staging.files, model=model or {"name": "m", "revision": None})
        assert staging.publish(manifest, store.path(key.key))
    return store.path(key.key)
