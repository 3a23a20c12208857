"""How vLLM is started for an artifact: variables and command, for each generation of its loader.

A pure decision over a manifest. What each generation reads is in ``docs/serving-neuron.md``; the
sources are the ``neuron-2.2x-vllm-v0.7.2`` branches and ``main`` of upstreaming-to-vllm,
vllm-neuron, optimum-neuron (``optimum/neuron/vllm``) and the guides of aws-neuron-sdk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts.backends.nxdi.loaders import is_plugin
from neuron_artifacts.compile_caches.served import CACHE_VARIABLE
from neuron_artifacts.errors import IncompatibleError, UsageError
from neuron_artifacts.runtime.vllm.served import (
    GENERATIONS,
    NATIVE,
    OPTIMUM,
    Served,
    check_backend,
)

SERVER = ("-m", "vllm.entrypoints.openai.api_server")
WORKER = ("examples/neuron/multi_node/worker.py",)
"""What the nodes of several run that do not serve; it lies in the fork's sources only."""
ROOT_COMM_PORT = 63423
"""Where the ranks of several nodes meet (fork, ``examples/neuron/multi_node/launch_script.py``)."""
MASTER_PORT = "65111"
"""Where their workers do, unless the caller says (NxD Inference, ``examples/multi_node.md``)."""
RANK_VARIABLE = "NEURON_RANK_ID"

_WORKER_NOTE = "only node 0 serves: this worker lies in the sources of AWS's fork, so run it there"
_VLLM_OPTIONS = ("block_size", "enable_prefix_caching", "num_gpu_blocks_override")
_LORA_OPTIONS = ("lora_modules", "max_loras", "max_lora_rank")
_REWRITES = ("NXD_LAYOUT_TRANSFORMATION_OPTIONS",)
_COMPILES = (
    "NEURON_COMPILED_ARTIFACTS", "NEURON_LIBTORCH_CPU_COMPILE", "NEURON_LIBTORCH_CPU_MODE",
    "NEURON_LIBTORCH_DISABLE_COMPILE_CACHE", "NEURON_LIBTORCH_REMOTE_CACHE",
    "VLLM_NEURON_CPU_COMPILE", "VLLM_NEURON_CPU_MODE", "VLLM_NEURON_DISABLE_COMPILE_CACHE",
    "VLLM_NEURON_REMOTE_CACHE",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """Where a server is to listen and what it calls the model; ``None`` leaves it to vLLM.

    ``cache_root`` is where vllm-neuron looks for graphs, ``rank`` the node of a deployment of
    several, ``master`` the address of its first, and ``master_port`` where all their workers meet.
    """

    host: str | None = None
    port: int | None = None
    names: tuple[str, ...] = ()
    cache_root: Path | None = None
    rank: int | None = None
    master: str | None = None
    master_port: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Variables to set and to unset, and vLLM's arguments after the interpreter.

    ``notes`` are for people: what the server cannot enforce, one line each.
    """

    loader: str
    environ: Mapping[str, str]
    unset: tuple[str, ...]
    arguments: tuple[str, ...]
    notes: tuple[str, ...] = ()


def make_recipe(served: Served, directory: Path, loader: str | None, site: Site) -> Recipe:
    """The recipe for ``directory`` and one generation; by default the one it was built for.

    Raises
    ------
    UsageError
        There is no such generation, or a node's address or rank is missing or wrong.
    IncompatibleError
        vLLM cannot serve this artifact, or not with this generation.
    """
    loader = loader or served.loader or (NATIVE if served.backend == "vllm-neuron" else None)
    if served.backend == OPTIMUM:
        loader = OPTIMUM
    _check(served, loader)
    assert loader is not None
    if loader == NATIVE:
        return _native(served, directory, site)
    if loader == OPTIMUM:
        tp_degree = ("--tensor-parallel-size", str(served.tp_degree))
        common = _common(served, directory, site, served.seq_len)
        return Recipe(loader, {}, _REWRITES, (*common, *tp_degree))
    return _nxdi(served, directory, loader, site)


def _check(served: Served, loader: str | None) -> None:
    check_backend(served.backend)
    names = f"one of {', '.join(GENERATIONS)}"
    if loader is None:
        raise UsageError(
            "which vLLM it was compiled for is not known: it was adopted, and several generations, "
            "or none, ask for its configuration",
            hint=f"name the one that serves it with --vllm-loader: {names}",
        )
    if loader not in GENERATIONS:
        raise UsageError(f"unknown vLLM loader {loader!r}", hint=names)
    wanted = {NATIVE: "vllm-neuron", OPTIMUM: OPTIMUM}.get(loader, "nxdi")
    if served.backend != wanted:
        raise IncompatibleError(
            f"{loader} loads artifacts of {wanted}, and this one is of {served.backend}",
            hint="take another --vllm-loader, or a toolchain that has one (--python)",
        )


def _nxdi(served: Served, directory: Path, loader: str, site: Site) -> Recipe:
    override = dict(served.override)
    options = {name: override.pop(name) for name in _VLLM_OPTIONS if name in override}
    lora = {name: override.pop(name) for name in _LORA_OPTIONS if name in override}
    length, notes = _usable_length(served, bool(served.fields.get("is_block_kv_layout")))
    if length < served.seq_len:
        # The loader makes a NeuronConfig of its arguments first, and buckets may go to the end.
        override |= {"seq_len": served.seq_len, "max_context_length": served.max_context_length}
    environ = {
        "NEURON_COMPILED_ARTIFACTS": str(directory),
        "VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference",
        **_precision(served),
        **_runtime(served),
    }
    is_spread = served.ranks.nodes > 1 or bool(site.rank)
    arguments = [*_common(served, directory, site, length), *_block_flags(served, loader, options)]
    if not is_spread:
        arguments += ["--tensor-parallel-size", str(served.tp_degree)]
    if not is_plugin(loader):
        arguments += ["--device", "neuron"]
    if is_spread:
        nodes, extra, more = _multi_node(served, loader, site)
        environ |= nodes
        override |= extra
        notes += more
    arguments += [
        *_speculation_flags(served, loader, length),
        *_lora_flags(served, lora),
        *_override_flags(served, loader, override),
    ]
    if served.max_context_length < served.seq_len and loader != "vllm-neuron-0.5":
        notes.append(
            f"prompts of more than {served.max_context_length} tokens fail in the model: this "
            "vLLM takes no shorter limit for prompts"
        )
    if _WORKER_NOTE in notes:
        arguments = _as_worker(arguments)
    return Recipe(loader, environ, _REWRITES, tuple(arguments), tuple(notes))


def _as_worker(arguments: list[str]) -> list[str]:
    """The same engine without the server, which alone has an address."""
    rest = arguments[len(SERVER) :]
    for name in ("--host", "--port"):
        if name in rest:
            at = rest.index(name)
            del rest[at : at + 2]
    return [*WORKER, *rest]


def _native(served: Served, directory: Path, site: Site) -> Recipe:
    """vllm-neuron: no directory to point at, but a cache to fill beforehand."""
    root = site.cache_root or directory / "cache"
    environ = {
        **served.environment,
        CACHE_VARIABLE: str(root),
        "NEURON_LIBTORCH_CACHE_ROOT": str(root),  # where SDK 2.32 and later look first
        "VLLM_NEURON_DISABLE_WARMUP_COMPILE": "1",
        "VLLM_NEURON_DISABLE_GRAPH_CAPTURE_BACKEND": "1",
        "NEURON_LIBTORCH_DISABLE_GRAPH_CAPTURE_BACKEND": "1",
    }
    arguments = [*_common(served, directory, site, served.seq_len)]
    arguments += ["--tensor-parallel-size", str(served.tp_degree)]
    for name, value in sorted(served.arguments.items()):
        arguments += _flag(name, value)
    if served.override:
        arguments += ["--additional-config", _json({"neuron_config": dict(served.override)})]
    return Recipe(NATIVE, environ, _COMPILES, tuple(arguments))


def _common(served: Served, directory: Path, site: Site, length: int) -> tuple[str, ...]:
    arguments = [
        *SERVER, "--model", str(directory),
        "--served-model-name", *(site.names or (served.name,)),
        "--max-num-seqs", str(served.max_num_seqs),
        "--max-model-len", str(length),
        "--dtype", served.dtype,
    ]  # fmt: skip
    for name, value in (("--host", site.host), ("--port", site.port)):
        if value is not None:
            arguments += [name, str(value)]
    return tuple(arguments)


def _usable_length(served: Served, is_block_layout: bool) -> tuple[int, list[str]]:
    """What ``--max-model-len`` says: with speculation the last draft must fit behind it.

    Without a block layout vLLM gives each sequence one block; near its end it asks for another
    (``neuron.inc.md`` of vLLM, known limitations). A block layout counts blocks by the length, so
    it cannot be changed there.
    """
    last = served.seq_len - served.speculation_length
    if last == served.seq_len or not is_block_layout:
        return last, []
    return served.seq_len, [
        f"prompt and answer together must stay within {last} tokens: speculation looks "
        f"{served.speculation_length} ahead"
    ]


def _block_flags(served: Served, loader: str, options: Mapping[str, Any]) -> list[str]:
    """The plugin needs the number of blocks: vLLM would count them by free memory."""
    caching = bool(options.get("enable_prefix_caching", served.fields.get("is_prefix_caching")))
    blocks = options.get("num_gpu_blocks_override")
    flags = []
    if caching:
        flags.append("--enable-prefix-caching")
    elif is_plugin(loader):
        flags.append("--no-enable-prefix-caching")
    if options.get("block_size"):
        flags += ["--block-size", str(options["block_size"])]
    if blocks is None and is_plugin(loader) and not served.fields.get("is_block_kv_layout"):
        blocks = served.max_num_seqs
    if blocks is not None:
        flags += ["--num-gpu-blocks-override", str(blocks)]
    return flags


def _speculation_flags(served: Served, loader: str, length: int) -> list[str]:
    told = served.speculation
    if told is None:
        return []
    if loader.startswith("aws-fork-"):
        return [
            "--speculative-model", told.model,
            "--num-speculative-tokens", str(told.num_tokens),
            "--speculative-max-model-len", str(length),
        ]  # fmt: skip
    config: dict[str, Any] = {
        "model": told.model, "num_speculative_tokens": told.num_tokens, "max_model_len": length,
    }  # fmt: skip
    if told.method:
        config["method"] = told.method
    return ["--speculative-config", _json(config)]


def _lora_flags(served: Served, options: Mapping[str, Any]) -> list[str]:
    modules = options.get("lora_modules")
    if not modules:
        return []
    config = served.fields.get("lora_config") or {}
    flags = ["--enable-lora"]
    for name in ("max_loras", "max_lora_rank"):
        value = options.get(name, config.get(name))
        if value is not None:
            flags += _flag(name, value)
    return [*flags, "--lora-modules", *(f"{each['name']}={each['path']}" for each in modules)]


def _override_flags(served: Served, loader: str, override: dict[str, Any]) -> list[str]:
    """The forks set each value as it is on the configuration they have loaded.

    A nested one would stay a dict there, and its first use fails (``global_topk`` in the model
    runner); the loaded configuration has it already. Only ``chunked_prefill_config`` becomes an
    object on the way. Without the flag some of them fail, too.
    """
    if not is_plugin(loader):
        plain = {
            name: value
            for name, value in override.items()
            if name == "chunked_prefill_config" or not isinstance(value, Mapping)
        }
        return ["--override-neuron-config", _json(plain)]
    config: dict[str, Any] = {"override_neuron_config": override} if override else {}
    if loader == "vllm-neuron-0.5" and served.max_context_length < served.seq_len:
        config["max_prompt_length"] = served.max_context_length
    return ["--additional-config", _json(config)] if config else []


def _multi_node(
    served: Served, loader: str, site: Site
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Variables, overrides and notes for one node of several."""
    ranks = served.ranks
    node = ranks.node if site.rank is None else site.rank
    if not loader.startswith("aws-fork-"):
        raise IncompatibleError(
            f"{loader} runs on one node, and this artifact is for {ranks.nodes}",
            hint="multi-node serving needs AWS's fork of vLLM (SDK 2.21 to 2.24)",
        )
    if not 0 <= node < ranks.nodes:
        raise UsageError(f"there is no rank {node}: the artifact is for {ranks.nodes} nodes")
    start = node * ranks.count
    missing = sorted(set(range(start, start + ranks.count)) - served.shards)
    if served.shards and missing:
        raise IncompatibleError(
            f"node {node} needs the weights of ranks {start} to {start + ranks.count - 1}, and "
            f"the artifact lacks rank {missing[0]}",
            hint="use the artifact that was compiled for this node",
        )
    environ = {
        "ENABLE_NEURON_MULTI_NODE": "true",
        "WORLD_SIZE": str(ranks.nodes),
        RANK_VARIABLE: str(node),
        "NEURON_LOCAL_TP": str(ranks.count),
        **_meeting_place(site),
    }
    override = {
        "world_size": ranks.world, "tp_degree": served.tp_degree,
        "local_ranks_size": ranks.count, "start_rank_id": start,
    }  # fmt: skip
    return environ, override, [_WORKER_NOTE] if node else []


def _meeting_place(site: Site) -> dict[str, str]:
    """Where ranks meet (the runtime's) and where workers do: torch's env:// takes two variables.

    (Fork: ``vllm/worker/neuron_worker.py`` and ``examples/neuron/multi_node``.)
    """
    port = site.master_port or MASTER_PORT
    if not site.master:
        raise UsageError(
            "several nodes need the address of the first",
            hint="give --master-addr or set MASTER_ADDR",
        )
    if not port.isdecimal():  # Kubernetes sets tcp://… for a service that is called master
        raise UsageError(f"MASTER_PORT={port} is not a port", hint="set it to a free port there")
    return {
        "NEURON_RT_ROOT_COMM_ID": f"{site.master}:{ROOT_COMM_PORT}",
        "MASTER_ADDR": site.master,
        "MASTER_PORT": port,
    }


def _precision(served: Served) -> dict[str, str]:
    """fp8 needs two variables that only NxD Inference's own demo sets."""
    fields = served.fields
    names = [fields.get("quantization_dtype") if fields.get("quantized") else None]
    names += [fields.get("kv_cache_quant_dtype"), fields.get("activation_quantization_type")]
    is_fp8 = any(str(name).lower().startswith("f8") for name in names if name)
    if is_fp8 or fields.get("quantized_mlp_kernel_enabled") or fields.get("kv_cache_quant"):
        return {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"}
    return {}


def _runtime(served: Served) -> dict[str, str]:
    """What the compiled graphs need the runtime and the sampler to know."""
    environ = {}
    if (served.fields.get("logical_nc_config") or 1) > 1:
        environ["NEURON_LOGICAL_NC_CONFIG"] = str(served.fields["logical_nc_config"])
    if "on_device_sampling_config" in served.fields:
        sampled = served.fields["on_device_sampling_config"] is not None
        if not sampled:
            environ["NEURON_ON_DEVICE_SAMPLING_DISABLED"] = "1"
    return environ


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, _json(value) if isinstance(value, (dict, list)) else str(value)]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
