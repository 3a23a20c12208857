"""``vllm_neuron/compile/cache.py``: get_local, fetch_remote_or_compile, _store_local,
_is_cache_complete, _build_cache_artifact; ``compile/backend.py``: compile (the order of checks,
the texts) and neuroncc_compile (the files); ``compile/schema.py``: the metadata."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path

import neuron_double

from vllm_neuron import envs

logger = logging.getLogger("vllm_neuron.compile.cache")

FIELDS = {
    "version", "created_timestamp", "cache_key", "output_count", "unused_input_indices",
    "has_rng_seed_parameter", "io_map",
}  # fmt: skip
METADATA = ".artifact_metadata_v0.json"
MARKER = ".compilation_complete"


def compile_or_load(key, name, target):
    """One graph: from the local cache, else compiled into it."""
    folder = Path(envs.get_neuron_compile_cache_dir())
    use_cache = not envs.flag("VLLM_NEURON_DISABLE_COMPILE_CACHE")
    must_exist = envs.flag("VLLM_NEURON_DISABLE_WARMUP_COMPILE")
    if must_exist and not use_cache:
        raise ValueError("VLLM_NEURON_DISABLE_COMPILE_CACHE cannot both be set")
    logger.info("Compilation cache key: %s", key)
    if use_cache and is_complete(folder / key):
        (folder / key / ".cache_accessed").write_text(str(int(time.time())))
        check(folder / key)
        logger.info("Local cache hit for key: %s", key)
        return
    logger.info("Local cache miss for key: %s", key)
    if must_exist:
        raise RuntimeError(
            f"VLLM_NEURON_DISABLE_WARMUP_COMPILE: local compile cache miss for key {key}. All "
            "graphs must be pre-compiled when warmup compilation is disabled."
        )
    _compile(folder, key, name, target)


def is_complete(path):
    names = os.listdir(path) if path.is_dir() else []
    wanted = {"graph.hlo", f"graph_{path.name}.neff", MARKER}
    return wanted <= set(names) and any(name.startswith(".artifact_metadata_v") for name in names)


def check(path):
    try:
        metadata = json.loads((path / METADATA).read_text())
        known = set(metadata) <= FIELDS
    except ValueError:
        known = False
    if not known:
        raise RuntimeError(f"Required artifact metadata missing from cache: {path}")
    if metadata["cache_key"] != path.name:
        raise RuntimeError(
            f"Cache key mismatch: expected '{path.name}', found '{metadata['cache_key']}'"
        )


def _compile(folder, key, name, target):
    path = folder / key
    path.mkdir(parents=True, exist_ok=True)
    holder = folder / f".{key}.compilation_metadata"
    holder.write_text(f"pid:{os.getpid()}\nprocess_name:python\ncmdline:[]\n")
    if shutil.which("neuronx-cc") is None and os.environ.get("PATH") == "":
        raise RuntimeError("neuronx-cc compiler binary does not exist")
    (path / "graph.hlo").write_text(f"HloModule {name}")
    (path / "command.txt").write_text(
        f"neuronx-cc compile {path}/graph.hlo --framework XLA --target {target} "
        f"--output {path}/graph_{key}.neff --logfile {path}/log-neuron-cc.txt"
    )
    (path / "log-neuron-cc.txt").write_text("Compiler status\n")
    neff = neuron_double.make_neff(neuron_double.compile_graph(name))
    (path / f"graph_{key}.neff").write_bytes(neff)
    metadata = {
        "version": 0, "created_timestamp": datetime.now(timezone.utc).isoformat(),
        "cache_key": key, "output_count": 1, "unused_input_indices": None,
        "has_rng_seed_parameter": False, "io_map": {"0": 3},
    }  # fmt: skip
    (path / METADATA).write_text(json.dumps(metadata))
    if neuron_double.knob("half") is None or not name.endswith(" 1"):
        (path / MARKER).write_text(
            f"completed:{time.time()}\nneff_size:{len(neff)}\ncompleted_by_rank:0\n"
        )
        holder.unlink()
