"""What is recorded about a build: who, from which inputs, with which tools, when."""

from __future__ import annotations

import os
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from neuron_artifacts._version import __version__
from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.trust.statement import make_provenance

BUILDER_VARIABLE = "NEURON_ARTIFACTS_BUILDER"
_LOCAL = "urn:neuron-artifacts:local"
_PLACES = ("store", "output", "jobs", "origins", "python", "model")


def timestamp() -> str:
    """Now, in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_build(resolved: ResolvedSpec, began: str) -> dict[str, Any]:
    """SLSA provenance of an artifact. No path, host or user of the builder enters it.

    ``$NEURON_ARTIFACTS_BUILDER`` names the builder, where that means something to others.
    """
    spec, model = resolved.spec, resolved.model
    parameters = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in _PLACES}
    return make_provenance(
        builder=os.environ.get(BUILDER_VARIABLE) or _LOCAL,
        parameters={
            **{name: _plain(value) for name, value in parameters.items()},
            "model": model.name,
            "key": resolved.key.key,
        },
        dependencies=_dependencies(model),
        toolchain={**resolved.toolchain, "neuron-artifacts": __version__},
        began=began,
        ended=timestamp(),
    )


def _dependencies(model: ModelSnapshot) -> list[dict[str, Any]]:
    where = f"hf://{model.name}@{model.revision}" if model.revision else model.name
    return [
        {"name": file.name, "uri": f"{where}/{file.name}", "digest": {"sha256": model.sha256(file)}}
        for file in (*model.weight_files, *model.asset_files)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(value)
    return dict(value) if hasattr(value, "items") else value
