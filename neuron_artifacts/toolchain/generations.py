"""Which libraries make which backend, and which variables each generation of them reads.

Everything here is a decision over names and versions. The sources are named by repository and
file: the AWS Neuron SDK documentation (``aws-neuron-sdk``), AWS's vLLM fork
(``upstreaming-to-vllm``), the plugin (``vllm-neuron``), ``optimum-neuron``,
``transformers-neuronx`` and ``neuronx-distributed-inference``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GENERATIONS = ("nxdi", "optimum", "transformers-neuronx", "vllm-neuron")
"""Backends that run in a toolchain, in the order in which they are named."""

_TRACING = ("neuronx-cc", "torch-neuronx")

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "nxdi": (*_TRACING, "neuronx-distributed", "neuronx-distributed-inference"),
    "optimum": (*_TRACING, "neuronx-distributed", "optimum-neuron"),
    "transformers-neuronx": (*_TRACING, "transformers-neuronx"),
    "vllm-neuron": ("neuronx-cc", "vllm", "vllm-neuron"),
}
"""What must be there. Sources: ``setup.py`` of NxD Inference, the extra ``neuronx`` of
optimum-neuron, the imports of transformers-neuronx, and vLLM Neuron's set-up guide."""

DESCRIPTIONS = {
    "nxdi": "NxD Inference: artifacts are directories, NEURON_COMPILED_ARTIFACTS names one",
    "optimum": "optimum-neuron: artifacts are model folders, graphs come from the hub's cache",
    "transformers-neuronx": "transformers-neuronx: buckets come from NEURON_*_BUCKETS",
    "vllm-neuron": "vllm-neuron from SDK 2.31: graphs lie below VLLM_CACHE_ROOT",
}
"""Each generation as its users know it."""

NATIVE_PLUGIN = (0, 21)
"""From here on vllm-neuron compiles by itself; before, it was a loader of NxD Inference.
(0.2 to 0.6 came with SDK 2.26 to 2.30, 0.21.0.1.0.0 with 2.31.1: ``n2-manifest.json``.)"""

FIRST_OPTIMUM = (0, 4)
"""Earlier releases of optimum-neuron compile decoders for the host's own device alone; the worker
refuses them."""

_SHARED = ("libneuronxla", "neuronx-cc", "nki", "torch", "torch-neuronx", "transformers")

KEY_PACKAGES: dict[str, tuple[str, ...]] = {
    "nxdi": (*_SHARED, "neuronx-distributed", "neuronx-distributed-inference"),
    "optimum": (*_SHARED, "neuronx-distributed", "optimum-neuron"),
    "transformers-neuronx": (*_SHARED, "transformers-neuronx"),
    "vllm-neuron": (*_SHARED, "libtorch-neuronx-lite", "vllm", "vllm-neuron"),
}
"""Packages whose code takes part in making a graph, so that another version is another key."""

PROBED = tuple(sorted({*sum(REQUIREMENTS.values(), ()), *sum(KEY_PACKAGES.values(), ()), "vllm"}))

_FIRST_COMPILER, _LAST_COMPILER = 13, 28


def sdk_of_compiler(version: str) -> str | None:
    """The SDK release of a neuronx-cc version.

    Source: ``src/helperscripts/n2-manifest.json`` of aws-neuron-sdk, which lists neuronx-cc 2.13
    with SDK 2.18 and each later minor version with the next SDK, up to 2.27 with 2.32; the
    component notes of SDK 2.33 name 2.28.
    """
    numbers = _numbers(version)
    if len(numbers) < 2 or numbers[0] != 2:
        return None
    known = _FIRST_COMPILER <= numbers[1] <= _LAST_COMPILER
    return f"2.{numbers[1] + 5}" if known else None


def missing_packages(backend: str, packages: Mapping[str, str]) -> tuple[str, ...]:
    """What ``packages`` lacks to run ``backend``, as one would ask pip for it."""
    missing = [name for name in REQUIREMENTS[backend] if name not in packages]
    if backend == "vllm-neuron" and "vllm-neuron" in packages and not _is_native(packages):
        missing.append("vllm-neuron>=" + ".".join(map(str, NATIVE_PLUGIN)))
    if backend == "optimum" and _numbers(packages.get("optimum-neuron", "0.4")) < FIRST_OPTIMUM:
        missing.append("optimum-neuron>=" + ".".join(map(str, FIRST_OPTIMUM)))
    return tuple(missing)


def generations_of(packages: Mapping[str, str]) -> tuple[str, ...]:
    """The backends that an interpreter with ``packages`` can run."""
    return tuple(name for name in GENERATIONS if not missing_packages(name, packages))


@dataclass(frozen=True)
class Variable:
    """A documented variable: what it is for, who reads it, and what others take instead.

    ``readers`` are generations, or ``vllm-fork``: a vLLM whose Neuron support is its own.
    """

    name: str
    purpose: str
    readers: frozenset[str]
    instead: str
    source: str


def _variable(name: str, purpose: str, readers: str, instead: str, source: str) -> Variable:
    return Variable(name, purpose, frozenset(readers.split()), instead, source)


_TNX_LOADER = "upstreaming-to-vllm: vllm/model_executor/model_loader/neuron.py"
_COMPILE_CACHE = "aws-neuron-sdk: vllm-neuron/docs/design/compilation/compilation_cache.md"
_CPU_COMPILE = "aws-neuron-sdk: vllm-neuron/docs/design/compilation/cpu_compilation.md"

VARIABLES = (
    _variable(
        "NEURON_COMPILED_ARTIFACTS", "a directory that NxD Inference compiled", "nxdi",
        "vllm-neuron from 0.21 on looks into VLLM_CACHE_ROOT only, whatever its reference says",
        "upstreaming-to-vllm: vllm/model_executor/model_loader/neuronx_distributed.py:168; "
        "vllm-neuron 0.2: vllm_neuron/worker/neuronx_distributed_model_loader.py:198; "
        "vllm-neuron issues 37 and 38",
    ),
    _variable(
        "VLLM_CACHE_ROOT", "the cache of compiled graphs", "vllm-neuron",
        "NxD Inference takes NEURON_COMPILED_ARTIFACTS", _COMPILE_CACHE,
    ),
    _variable(
        "NEURON_CONTEXT_LENGTH_BUCKETS", "prompt lengths to compile for", "transformers-neuronx",
        "use --context-encoding-buckets", f"{_TNX_LOADER}:315",
    ),
    _variable(
        "NEURON_TOKEN_GEN_BUCKETS", "sequence lengths to compile for", "transformers-neuronx",
        "use --token-generation-buckets", f"{_TNX_LOADER}:317",
    ),
    _variable(
        "NEURON_QUANT_DTYPE", "the dtype of quantised weights", "transformers-neuronx",
        "use quantization_dtype in --override-neuron-config",
        "upstreaming-to-vllm: vllm/model_executor/layers/quantization/neuron_quant.py:32",
    ),
    _variable(
        "VLLM_NEURON_FRAMEWORK", "NxD Inference or transformers-neuronx", "vllm-fork",
        "the vllm-neuron plugin has no choice to make",
        "upstreaming-to-vllm: vllm/platforms/neuron.py:117; aws-neuron-sdk: "
        "vllm-neuron/docs/getting-started/migration-nxdi-to-vllm-neuron.md",
    ),
    _variable(
        "CUSTOM_CACHE_REPO", "the Neuron cache on the hub", "optimum",
        "only optimum-neuron compiles through that cache",
        "optimum-neuron: optimum/neuron/utils/cache_utils.py:182",
    ),
    _variable(
        "NEURON_COMPILE_CACHE_URL", "the persistent cache of neuronx-cc",
        "nxdi optimum transformers-neuronx", "vllm-neuron keeps graphs in VLLM_CACHE_ROOT",
        f"optimum-neuron: optimum/neuron/cache/cleanup.py:141; {_COMPILE_CACHE}",
    ),
    _variable(
        "NEURON_LIBTORCH_REMOTE_CACHE", "a shared cache of compiled graphs", "vllm-neuron",
        "", _COMPILE_CACHE,
    ),
    _variable(
        "NEURON_LIBTORCH_DISABLE_COMPILE_CACHE", "compile every time", "vllm-neuron",
        "", _COMPILE_CACHE,
    ),
    _variable(
        "VLLM_NEURON_DISABLE_WARMUP_COMPILE", "fail rather than compile", "vllm-neuron",
        "", _COMPILE_CACHE,
    ),
    _variable(
        "VLLM_NEURON_CPU_COMPILE", "compile without a device", "vllm-neuron",
        "name the device with --target", _CPU_COMPILE,
    ),
)  # fmt: skip
"""Variables that belong to some generations only. Those every compiler reads are not listed."""


def ignored_variables(
    packages: Mapping[str, str], generations: Iterable[str], environ: Mapping[str, str]
) -> tuple[Variable, ...]:
    """The variables that are set, and that nothing in this toolchain reads.

    Nothing is ignored where there is no generation: nothing would run.
    """
    readers = set(generations)
    if not readers:
        return ()
    if "vllm" in packages and "vllm-neuron" not in packages:
        readers.add("vllm-fork")
    return tuple(v for v in VARIABLES if environ.get(v.name) and not v.readers & readers)


def _is_native(packages: Mapping[str, str]) -> bool:
    return _numbers(packages["vllm-neuron"]) >= NATIVE_PLUGIN


def _numbers(version: str) -> tuple[int, ...]:
    """The leading dotted numbers of a version: what comes after them is a label."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
