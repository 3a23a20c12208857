"""Several nodes: one graph for all, and ranks of its own for each.

Source: ``vllm/worker/neuron_worker.py`` and ``examples/neuron/multi_node/launch_script.py`` of
upstreaming-to-vllm. ``WORLD_SIZE`` counts nodes there, ``NEURON_LOCAL_TP`` a node's ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

from neuron_artifacts.backends.findings import Finding
from neuron_artifacts.backends.nxdi.preflight.catalogue import finding
from neuron_artifacts.backends.nxdi.preflight.subject import Subject

_SWITCH = "ENABLE_NEURON_MULTI_NODE"
_ADDRESS = "NEURON_RT_ROOT_COMM_ID"
_VARIABLES = ("NEURON_RANK_ID", "WORLD_SIZE", "NEURON_LOCAL_TP")


def check_nodes(subject: Subject) -> Iterator[Finding]:
    """This node's ranks in the world, and the launch's variables against them."""
    fields = subject.fields
    start, local, world = (
        fields[name] for name in ("start_rank_id", "local_ranks_size", "world_size")
    )
    if start < 0 or local < 1 or start + local > world:
        yield finding(
            "ranks",
            f"start_rank_id {start} and local_ranks_size {local} reach beyond world_size {world}",
        )
    if local < world and _ADDRESS not in subject.environ:
        yield finding(
            "nodes-address",
            f"{local} of {world} ranks are on this node: serving needs {_ADDRESS}=host:port, the "
            "same on all nodes",
        )
    if subject.environ.get(_SWITCH, "").lower() == "true":
        yield from _check_launch(subject, start, local, world)


def _check_launch(subject: Subject, start: int, local: int, world: int) -> Iterator[Finding]:
    values = {name: subject.environ.get(name, "") for name in _VARIABLES}
    if wrong := [name for name, text in values.items() if not text.isdecimal()]:
        yield finding(
            "nodes-variables",
            f"{_SWITCH} is true, and {', '.join(wrong)} " + (
                "is no number" if len(wrong) == 1 else "are no numbers"
            ),
        )  # fmt: skip
        return
    rank, nodes, ranks = (int(values[name]) for name in _VARIABLES)
    if rank >= nodes:
        yield finding("nodes-rank", f"NEURON_RANK_ID {rank} of WORLD_SIZE {nodes} nodes")
    expected = (rank * ranks, ranks, nodes * ranks)
    if (start, local, world) != expected:
        yield finding(
            "nodes-differ",
            f"rank {rank} of {nodes} nodes with NEURON_LOCAL_TP {ranks} means start_rank_id, "
            f"local_ranks_size, world_size = {expected}, and NeuronConfig has "
            f"{(start, local, world)}",
        )
