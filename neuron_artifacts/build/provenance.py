"""What is recorded about a build: who, from which inputs, with which tools, when."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from neuron_artifacts._files import hash_file
from neuron_artifacts._version import __version__
from neuron_artifacts.artifact import PROVENANCE_NAME, FileEntry, Manifest
from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.model.snapshot import CONFIG_NAME
from neuron_artifacts.spec import CompileSpec
from neuron_artifacts.trust.provenance import make_predicate, make_statement

BUILDER_VARIABLE = "NEURON_ARTIFACTS_BUILDER"
_LOCAL = "urn:neuron-artifacts:local"
_PLACES = ("store", "output", "jobs", "origins", "python", "model", "extra")


def timestamp() -> str:
    """Now, in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_build(resolved: ResolvedSpec, manifest: Manifest, began: str) -> dict[str, bytes]:
    """SLSA provenance of an artifact, by the name of its file. It names no path, host or user.

    ``$NEURON_ARTIFACTS_BUILDER`` names the builder, where that means something to others.
    """
    asked = _asked(resolved.spec)
    return _write(
        manifest,
        kind="compile",
        parameters={**asked, "model": resolved.model.name, "backend": manifest.backend},
        command=("neuron-artifacts", "compile", resolved.model.name, *_flags(resolved.spec, asked)),
        dependencies=[*_dependencies(resolved.model), *_further(manifest)],
        began=began,
    )


def describe_adoption(manifest: Manifest, began: str) -> dict[str, bytes]:
    """As :func:`describe_build`, of what others compiled: its files are all that is known."""
    return _write(
        manifest,
        kind="adopt",
        parameters={"backend": manifest.backend, "target": manifest.target},
        command=("neuron-artifacts", "adopt"),
        dependencies=[_dependency(file.path, file.sha256) for file in manifest.files],
        began=began,
    )


def _write(manifest: Manifest, *, parameters: Mapping[str, Any], **facts: Any) -> dict[str, bytes]:
    predicate = make_predicate(
        builder=os.environ.get(BUILDER_VARIABLE) or _LOCAL,
        parameters={**parameters, "key": manifest.key},
        toolchain={**manifest.toolchain, "neuron-artifacts": __version__},
        ended=timestamp(),
        **facts,
    )
    return {PROVENANCE_NAME: make_statement(manifest.dump(), predicate)}


def _asked(spec: CompileSpec) -> dict[str, Any]:
    """What the request said, and what it left to its defaults."""
    asked = {f.name: _plain(getattr(spec, f.name)) for f in fields(spec) if f.name not in _PLACES}
    asked["override_neuron_config"] = _without_paths(dict(spec.extra))
    asked["speculative_model"] = _without_paths(spec.speculative_model)
    return asked


def _flags(spec: CompileSpec, asked: Mapping[str, Any]) -> Iterator[str]:
    """What somebody asked for, whether by an option, a variable or a file, as options."""
    override = dict(asked["override_neuron_config"])
    for name, value in asked.items():
        origin = spec.origins.get(name, "default")
        if origin.startswith("override_neuron_config"):
            override[name] = value
        elif origin != "default" and value is not None and value is not False:
            yield f"--{name.replace('_', '-')}"
            if value is not True:
                yield ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if override:
        yield from ("--override-neuron-config", json.dumps(override, sort_keys=True))


def _dependencies(model: ModelSnapshot) -> Iterator[dict[str, Any]]:
    where = f"hf://{model.name}@{model.revision}" if model.revision else model.name
    config = model.root / CONFIG_NAME if model.root else None
    if config and config.is_file():
        yield _dependency(CONFIG_NAME, hash_file(config), f"{where}/{CONFIG_NAME}")
    for file in (*model.weight_files, *model.asset_files):
        yield _dependency(file.name, model.sha256(file), f"{where}/{file.name}")


def _further(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Draft models and adapters, and graphs that were compiled for another artifact."""
    weights = manifest.document.get("weights", {})
    for name, digest in weights.get("draft", {}).items():
        yield _dependency(f"draft/{name}", _digest_in(digest))
    for adapter, files in weights.get("lora", {}).items():
        for name, digest in files.items():
            yield _dependency(f"lora/{adapter}/{name}", _digest_in(digest))
    built: dict[str, FileEntry] = {file.path: file for file in manifest.files}
    for graph in manifest.graphs:
        if graph.reused_from and graph.file in built:
            uri = f"urn:neuron-artifacts:key:{graph.reused_from}"
            yield _dependency(graph.file, built[graph.file].sha256, uri)


def _dependency(name: str, sha256: str, uri: str | None = None) -> dict[str, Any]:
    return {"name": name, **({"uri": uri} if uri else {}), "digest": {"sha256": sha256}}


def _digest_in(entry: Any) -> str:
    return str(entry["sha256"] if isinstance(entry, Mapping) else entry)


def _without_paths(value: Any) -> Any:
    """A value in which folders of this machine are called by their own names alone."""
    if isinstance(value, Mapping):
        return {name: _without_paths(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(entry) for entry in value]
    is_path = isinstance(value, str) and (value.startswith(("/", "./", "../", "~")))
    return Path(value).name if is_path else value


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
