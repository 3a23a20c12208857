"""What vLLM has to be told to serve an artifact, read from its manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.backends.nxdi.loaders import LOADERS, Speculation
from neuron_artifacts.errors import CorruptError, IncompatibleError

NATIVE = "vllm-neuron-0.21"
"""vllm-neuron that compiles by itself, from SDK 2.31 on."""
OPTIMUM = "optimum"
GENERATIONS = ("aws-fork-2.21", *LOADERS, NATIVE, OPTIMUM)
"""The generations of vLLM for Neuron that take flags of their own."""

SERVED_BACKENDS = ("nxdi", OPTIMUM, "vllm-neuron")

_FORKS = (2.21, 2.24)
_SHARD = re.compile(r"(?:.*/)?weights/tp(\d+)_sharded_checkpoint\.safetensors")


@dataclass(frozen=True)
class Ranks:
    """Which ranks of a deployment an artifact is for; ``world`` is how many there are."""

    start: int
    count: int
    world: int

    @property
    def nodes(self) -> int:
        return max(1, self.world // self.count)

    @property
    def node(self) -> int:
        return self.start // self.count


@dataclass(frozen=True)
class Served:
    """The part of a manifest that matters to vLLM.

    ``fields`` is the finished NeuronConfig, as far as the key has it, ``override`` what the
    request laid over vLLM's defaults, ``arguments`` further options of vLLM by their flags' names,
    ``environment`` the variables that graphs were compiled with, ``shards`` the ranks whose
    weights lie in the artifact.
    """

    backend: str
    loader: str | None
    name: str
    dtype: str
    tp_degree: int
    max_num_seqs: int
    seq_len: int
    max_context_length: int
    fields: Mapping[str, Any]
    override: Mapping[str, Any]
    arguments: Mapping[str, Any]
    environment: Mapping[str, str]
    speculation: Speculation | None
    ranks: Ranks
    shards: frozenset[int]

    @property
    def speculation_length(self) -> int:
        told = self.fields.get("speculation_length") or 0
        return int(told or (self.speculation.num_tokens if self.speculation else 0))


def read_served(manifest: Manifest) -> Served:
    """Read what serving takes.

    Raises
    ------
    CorruptError
        The manifest does not say it, or not as it should.
    """
    try:
        return _read(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptError(f"the manifest has no usable serve recipe: {error!r}") from None


def check_backend(backend: str) -> None:
    """Refuse what no vLLM loads.

    Raises
    ------
    IncompatibleError
        An artifact of this backend; vLLM's loader for transformers-neuronx never loads, only
        compiles (``vllm/model_executor/model_loader/neuron.py``).
    """
    if backend not in SERVED_BACKENDS:
        raise IncompatibleError(
            f"vLLM cannot load an artifact of the backend {backend}",
            hint="serve it with --engine bundled",
        )


def loader_of(packages: Mapping[str, str], sdk: str | None, backend: str) -> str | None:
    """The generation of the vLLM that is installed; ``None`` where there is none.

    ``packages`` are versions by name. AWS's fork calls itself vLLM 0.6 or 0.7; which SDK it goes
    with, only the SDK tells.
    """
    if "vllm" not in packages:
        return None
    if backend == "optimum":
        return OPTIMUM
    plugin = packages.get("vllm-neuron")
    if plugin:
        version = _numbers(plugin)
        if version >= (0, 21):
            return NATIVE
        return "vllm-neuron-0.2" if version < (0, 4) else "vllm-neuron-0.5"
    if _numbers(packages["vllm"]) >= (0, 8):
        return "vllm-main"
    oldest, newest = _FORKS
    level = float(sdk) if sdk and re.fullmatch(r"2\.\d\d", sdk) else newest
    return f"aws-fork-{min(max(level, oldest), newest):.2f}"


def _read(manifest: Manifest) -> Served:
    config, serve = manifest.neuron_config, manifest.serve
    document = manifest.document
    fields = document["graphs"].get("neuron_config") or {}
    layout = document["weights"].get("layout") or {}
    shards = (_SHARD.fullmatch(file.path) for file in manifest.files)
    return Served(
        backend=manifest.backend,
        loader=serve.get("loader"),
        name=str(serve.get("served_model_name") or manifest.model["name"]),
        dtype=str(config["torch_dtype"]),
        tp_degree=int(config["tp_degree"]),
        max_num_seqs=int(config["batch_size"]),
        seq_len=int(config["seq_len"]),
        max_context_length=int(config["max_context_length"]),
        fields=dict(fields),
        override=dict(serve.get("override_neuron_config") or {}),
        arguments=dict(serve.get("vllm_arguments") or {}),
        environment=dict(serve.get("environment") or {}),
        speculation=_speculation(serve.get("speculation")),
        ranks=_ranks(layout, serve.get("ranks") or {}, fields, int(config["tp_degree"])),
        shards=frozenset(int(match[1]) for match in shards if match),
    )


def _speculation(told: Mapping[str, Any] | None) -> Speculation | None:
    if not told:
        return None
    return Speculation(str(told["model"]), int(told["num_tokens"]), told.get("method"))


def _ranks(
    layout: Mapping[str, Any], told: Mapping[str, Any], fields: Mapping[str, Any], tp_degree: int
) -> Ranks:
    world = int(fields.get("world_size") or tp_degree)
    start = layout.get("start_rank_id", told.get("start")) or 0
    count = layout.get("local_ranks_size", told.get("count")) or world
    return Ranks(int(start), int(count), world)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
