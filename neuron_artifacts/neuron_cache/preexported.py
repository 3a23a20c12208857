"""Repositories and folders that already hold a compiled model.

What optimum-neuron saves has looked like this::

    neuron_config.json + model*.pt, or compiled/        decoders from 0.2.0 (HLO: 0.2.0 only)
    config.json with "neuron", checkpoint/ or compiled/ decoders before
    config.json with "neuron", model.neuron             traced models
    <component>/config.json with "neuron"               traced pipelines
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

NEURON_CONFIG_NAME = "neuron_config.json"
_GRAPHS = "model*.pt"
_HLO_GRAPHS = "compiled"


@dataclass(frozen=True)
class VersionLock:
    """A version that must be installed to load the model; ``exact`` or at least that one."""

    package: str
    version: str
    exact: bool


@dataclass(frozen=True)
class PreExported:
    """A compiled model: what it was compiled for, and what it asks of the machine.

    ``complete`` says whether the graphs lie beside the configuration (``None``: not looked at).
    """

    layout: Literal["decoder", "early decoder", "traced", "pipeline"]
    neuron: Mapping[str, Any]
    locks: tuple[VersionLock, ...]
    complete: bool | None

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        locks = [vars(lock) for lock in self.locks]
        return {
            "layout": self.layout, "complete": self.complete, "locks": locks,
            "neuron_config": dict(self.neuron),
        }  # fmt: skip


def recognise(
    config: Mapping[str, Any],
    neuron_config: Mapping[str, Any] | None,
    files: Collection[str] | None = None,
) -> PreExported | None:
    """Tell a compiled model from a plain one.

    ``config`` is config.json (or a pipeline's components by name), ``neuron_config`` the content
    of neuron_config.json where there is one, ``files`` the names at the root, if known.
    """
    if neuron_config is not None:
        complete = None if files is None else any(map(_is_graphs, files))
        return PreExported("decoder", neuron_config, _locks(neuron_config, exact=True), complete)
    neuron = config.get("neuron")
    if isinstance(neuron, Mapping):
        traced = "dynamic_batch_size" in neuron or any(n.startswith("static_") for n in neuron)
        parts = {"model.neuron"} if traced else {"checkpoint", "compiled"}
        complete = None if files is None else bool(parts & set(files))
        layout: Literal["traced", "early decoder"] = "traced" if traced else "early decoder"
        return PreExported(layout, neuron, _locks(neuron, exact=False), complete)
    for name in ("unet", "transformer", "decoder", "encoder"):
        component = config.get(name)
        found = component.get("neuron") if isinstance(component, Mapping) else None
        if isinstance(found, Mapping):
            return PreExported("pipeline", found, _locks(found, exact=False), None)
    return None


def _is_graphs(name: str) -> bool:
    return fnmatchcase(name, _GRAPHS) or name == _HLO_GRAPHS


def _locks(neuron: Mapping[str, Any], *, exact: bool) -> tuple[VersionLock, ...]:
    """From 0.2.0 both versions must be those installed; before, the compiler may be newer."""
    packages = {
        "optimum-neuron": neuron.get("optimum_neuron_version"),
        "neuronx-cc": neuron.get("neuronxcc_version") or neuron.get("compiler_version"),
    }
    return tuple(
        VersionLock(package, version, exact)
        for package, version in packages.items() if isinstance(version, str)
    )  # fmt: skip
