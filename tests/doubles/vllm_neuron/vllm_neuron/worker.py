"""``vllm_neuron/vllm/worker/neuron_worker.py``: load_model, determine_available_memory (the same
number of blocks with and without a device), compile_or_warm_up_model (without a device it captures
and compiles every graph and runs none); ``vllm/platform.py``: what a compile without one needs.

Buckets: ``guides/reference-configuration.md`` of aws-neuron-sdk. ``max_num_batched_tokens`` is
another by itself for ``LLM`` than for the server (vLLM, ``EngineArgs``, usage contexts).
"""

from __future__ import annotations

import json
import os
from hashlib import md5
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import neuron_double

from vllm_neuron import cache, envs
from vllm_neuron.exceptions import CPUCompilationComplete

VERSIONS = ("neuronx-cc", "nki", "libtorch-neuronx-lite")


def load(options):
    on_cpu = envs.flag("VLLM_NEURON_CPU_COMPILE")
    target = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    tp_degree = options.get("tensor_parallel_size") or 1
    if on_cpu:
        if envs.flag("VLLM_NEURON_CPU_MODE"):
            raise ValueError("VLLM_NEURON_CPU_COMPILE and VLLM_NEURON_CPU_MODE exclude each other")
        if not target:
            raise RuntimeError("NEURON_PLATFORM_TARGET_OVERRIDE must be set")
        if options.get("speculative_config"):
            raise NotImplementedError("Speculative decoding is not supported")
    else:
        target = target or neuron_double.instance_type()
        if neuron_double.available_cores() < tp_degree:
            raise RuntimeError(f"{tp_degree} Neuron cores are not available")
        _read_weights(Path(options["model"]))
    for name, text in _graphs(options, target):
        cache.compile_or_load(md5(text.encode()).hexdigest(), name, target)
    if on_cpu and neuron_double.knob("raises") is not None:
        raise CPUCompilationComplete
    return SimpleNamespace(
        config=SimpleNamespace(neuron_config=SimpleNamespace(on_device_sampling_config=None))
    )


def _graphs(options, target):
    """Name and text of every graph: what is hashed has no weights and no path in it."""
    config = json.loads((Path(options["model"]) / "config.json").read_text())
    neuron = (options.get("additional_config") or {}).get("neuron_config", {})
    tokens = options.get("max_num_batched_tokens") or (2048 if "port" in options else 8192)
    sequences = options["max_num_seqs"]
    prefill = neuron.get("num_batched_tokens_buckets") or _powers(128, tokens)
    decode = neuron.get("num_seqs_buckets") or _powers(1, sequences)
    if prefill[-1] != tokens or decode[-1] != sequences:
        raise ValueError("the largest bucket must equal the maximum")
    lengths = [*neuron.get("decode_context_length_buckets", []), options["max_model_len"]]
    shapes = [("prefill", size, 0) for size in prefill]
    shapes += [("decode", size, length) for length in lengths for size in decode]
    common = {
        "model": {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype")},
        "dtype": options.get("dtype"), "target": target,
        "blocks": options.get("gpu_memory_utilization") or 0.9,
        "caching": options.get("enable_prefix_caching") is not False,
        "cores": os.environ.get("NEURON_LOGICAL_NC_CONFIG", "1"),
        "versions": [metadata.version(name) for name in VERSIONS],
    }  # fmt: skip
    for phase, size, length in shapes:
        text = json.dumps([phase, size, length, common], sort_keys=True)
        yield f"{phase} {length} {size}" if length else f"{phase} {size}", text


def _read_weights(model):
    if not list(model.glob("*.safetensors")):
        raise RuntimeError(f"Cannot find any model weights with `{model}`")


def _powers(low, high):
    powers = []
    while low < high:
        powers.append(low)
        low *= 2
    return [*powers, high]
