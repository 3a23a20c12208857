"""Compile caches on disk, as the Neuron libraries leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def put_module(
    root: Path,
    compiler: str,
    name: str,
    state: str = "done",
    *,
    flags: Sequence[str] = ("--target=trn1",),
    log: str = "error: the compiler died\n",
) -> Path:
    """One graph of the persistent cache: what libneuronxla writes before, after and instead."""
    path = root / f"neuronxcc-{compiler}" / f"MODULE_{name}"
    path.mkdir(parents=True)
    (path / "model.hlo_module.pb").write_bytes(b"hlo")
    (path / "compile_flags.json").write_text(json.dumps(list(flags)))
    if state == "done":
        (path / "model.neff").write_bytes(b"neff" * 100)
        (path / "model.done").touch()
    elif state == "failed":
        (path / "model.log").write_text(log)
    elif state == "locked":
        (path / "model.hlo_module.pb.lock").touch()
    return path
