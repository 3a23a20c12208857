"""Drives vllm-neuron's deviceless compile in the interpreter that has it.

Self-contained: Python 3.8 syntax, the standard library and vLLM. Names and variables follow the
documentation of vllm-neuron (aws-neuron-sdk, ``vllm-neuron/docs/design/compilation/``:
``cpu_compilation.md``, ``compilation_cache.md``; ``guides/reference-configuration.md``) and public
copies of its 0.21 and later (``vllm_neuron/envs.py``, ``compile/cache.py``,
``vllm/worker/neuron_worker.py``).

=========== ====================================================================================
action      does
=========== ====================================================================================
compile     start ``vllm.LLM`` with the options ``llm``: it captures every graph and compiles it
            into ``<cache_root>/neuron/compile_cache``, loads no weights and runs nothing
=========== ====================================================================================
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Emit = Callable[..., None]
    Request = dict[str, Any]

MARKER = ".compilation_complete"
LOOK_SECONDS = 1.0
DAY = "86400"

_MISLEADING = (
    "NEURON_LIBTORCH_CPU_MODE", "NEURON_LIBTORCH_DISABLE_COMPILE_CACHE",
    "NEURON_LIBTORCH_DISABLE_GRAPH_CAPTURE_BACKEND", "NEURON_LIBTORCH_REMOTE_CACHE",
    "VLLM_NEURON_ASSERT_CACHE_HIT", "VLLM_NEURON_CPU_MODE", "VLLM_NEURON_DISABLE_COMPILE_CACHE",
    "VLLM_NEURON_DISABLE_GRAPH_CAPTURE_BACKEND", "VLLM_NEURON_DISABLE_WARMUP_COMPILE",
    "VLLM_NEURON_REMOTE_CACHE", "VLLM_NEURON_SKIP_DECODE_WARMUP",
    "VLLM_NEURON_SKIP_PREFILL_WARMUP",
)  # fmt: skip
"""Variables that keep graphs from being compiled, or from lying where they are looked for."""

_ROOTS = ("NEURON_LIBTORCH_CACHE_ROOT", "VLLM_CACHE_ROOT")
"""libtorch-neuronx-lite (SDK 2.32) takes the first, the plugin before it the second; below either
the cache is ``neuron/compile_cache``."""

_PATIENCE = (
    "NEURON_LIBTORCH_COMPILATION_TIMEOUT", "VLLM_ENGINE_READY_TIMEOUT_S",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "VLLM_NEURON_BARRIER_TIMEOUT",
    "VLLM_NEURON_COMPILATION_TIMEOUT",
)  # fmt: skip
"""Seconds that ranks and engine wait for a compile; ten minutes by themselves."""

_WORKERS = ("NEURON_LIBTORCH_PARALLEL_COMPILE_WORKERS", "VLLM_NEURON_PARALLEL_COMPILE_WORKERS")


def run(request: Request, emit: Emit) -> dict[str, Any]:
    actions = {"compile": compile_graphs}
    return actions[request["action"]](request, emit)


def compile_graphs(request: Request, emit: Emit) -> dict[str, Any]:
    root = Path(request["cache_root"])
    set_environment(root, request.get("jobs"))
    folder = root / "neuron" / "compile_cache"
    emit("phase", name="import vllm")
    vllm = import_module("vllm")
    emit("phase", name="compile")
    for graph in request["graphs"]:
        emit("graph", state="compiling", **graph)
    watcher = Watcher(folder, emit)
    try:
        vllm.LLM(**request["llm"])
    except Exception as error:
        # Some versions end a compile without a device by raising (vllm_neuron/exceptions.py).
        if type(error).__name__ != "CPUCompilationComplete":
            raise
    finally:
        watcher.stop()
    for graph in request["graphs"]:
        emit("graph", state="compiled", **graph)
    return {"keys": finished(folder)}


def set_environment(root: Path, jobs: int | None) -> None:
    if not os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE"):
        raise RuntimeError("NEURON_PLATFORM_TARGET_OVERRIDE must name the device to compile for")
    for name in _MISLEADING:
        os.environ.pop(name, None)
    for name in _PATIENCE:
        os.environ.setdefault(name, DAY)
    if jobs:
        for name in _WORKERS:
            os.environ[name] = str(jobs)
    os.environ["VLLM_NEURON_CPU_COMPILE"] = "1"
    for name in _ROOTS:
        os.environ[name] = str(root)
    # Graphs name compiled kernels by path, so those must not be shared with other builds.
    os.environ["NKI_COMPILE_CACHE_URL"] = str(root / "nki")


def finished(folder: Path) -> list[str]:
    """Keys of the graphs that are whole, as the cache itself judges."""
    return sorted(path.parent.name for path in folder.glob(f"*/{MARKER}"))


class Watcher:
    """Says now and then how many graphs are done: which one is which, a key does not tell."""

    def __init__(self, folder: Path, emit: Emit) -> None:
        self._folder, self._emit = folder, emit
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        told = len(finished(self._folder))
        while not self._over.wait(LOOK_SECONDS):
            done = len(finished(self._folder))
            if done != told:
                told = done
                self._emit("warning", text=f"{done} graphs are compiled")
