"""What builds and pulls that are gone have left behind, wherever they left it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neuron_artifacts.build.workspace import find_stale, remove_stale
from neuron_artifacts.compile_caches.served import find_unused
from neuron_artifacts.remote.incoming import collect_incoming, find_orphans
from neuron_artifacts.store import LocalStore, gc


def find_litter(store: LocalStore) -> dict[Path, int]:
    """Stale temporaries of the store, blobs without an artifact, and work directories of compilers.

    So are caches that vllm-neuron was served from, once the artifact is gone. Each with its bytes
    on disk. Nothing that a living process works on is among them.
    """
    cache = store.digests.find_abandoned()
    elsewhere = [*find_orphans(store.root), *find_stale(), *find_unused(), *cache]
    return {**gc.find_litter(store), **{path: gc.size_on_disk(path) for path in elsewhere}}


def collect_litter(store: LocalStore, found: Mapping[Path, int]) -> list[Path]:
    """Remove what was found, and the notes about processes and artifacts that are gone."""
    gc.collect_litter(store)
    collect_incoming(store.root)
    for path in find_stale():
        remove_stale(path)
    for path in (*find_unused(), *store.digests.find_abandoned()):
        gc.discard(path)
    return [path for path in found if not path.exists()]
