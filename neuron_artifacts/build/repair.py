"""How to build an artifact again from what is left of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron_artifacts.artifact import Verdict, read_manifest, verify_artifact
from neuron_artifacts.artifact.neuron_config_file import CONFIG_FILE, read_neuron_config
from neuron_artifacts.errors import NeuronArtifactsError, UsageError
from neuron_artifacts.spec import CompileSpec
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.staging import rename_without_replacing

_REQUEST = ("speculative_model", "num_speculative_tokens", "speculative_method", "vllm_loader")

_CONFIGURATION = (
    "tp_degree", "batch_size", "seq_len", "max_context_length", "torch_dtype",
    "context_encoding_buckets", "token_generation_buckets",
)  # fmt: skip


def repair_flags(directory: Path, verdict: Verdict, model: str | None = None) -> dict[str, Any]:
    """Options of the ``compile`` that would give this artifact again, at the same place.

    Taken from the manifest where it is readable, else from ``neuron_config.json``; ``model``
    wins over the source the manifest remembers. A target this machine cannot run is left out.

    Raises
    ------
    UsageError
        Nothing left says which model it was.
    """
    manifest = verdict.manifest or _manifest(directory)
    config: Mapping[str, Any] = manifest.neuron_config if manifest else _neuron_config(directory)
    source = model or (manifest and manifest.model.get("source"))
    if not isinstance(source, str) or not source:
        raise UsageError(
            f"{directory} no longer says which model it was built from",
            hint="name it with --model MODEL",
        )
    flags: dict[str, Any] = {"model": source, "output": str(directory)}
    if manifest:
        request = manifest.model.get("request")
        flags |= request if isinstance(request, dict) else {}
        flags["backend"] = manifest.backend
        if verdict.status != "incompatible":
            flags["target"] = manifest.target
        if not model and _is_hub(source):
            flags["revision"] = manifest.model.get("revision")
    flags |= {name: config[name] for name in _CONFIGURATION if name in config}
    if config.get("enable_bucketing") is False:
        flags["enable_bucketing"] = False
        flags.pop("context_encoding_buckets", None)
        flags.pop("token_generation_buckets", None)
    return {name: value for name, value in flags.items() if value is not None}


def repair_command(directory: Path, verdict: Verdict) -> str:
    """The command to copy that builds the artifact again."""
    try:
        flags = repair_flags(directory, verdict)
    except UsageError:
        return f"neuron-artifacts compile MODEL --output {shlex.quote(str(directory))}"
    words = ["neuron-artifacts", "compile", flags.pop("model")]
    override = dict(flags.pop("override_neuron_config", {}))
    if flags.pop("enable_bucketing", True) is False:
        override["enable_bucketing"] = False
    if override:
        words += ["--override-neuron-config", json.dumps(override)]
    for name, value in flags.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


Action = Literal["sound", "fetched", "rebuilt", "quarantined", "kept", "unreadable"]


@dataclass(frozen=True)
class Repair:
    """What became of an artifact, and where it lies now. ``reason`` says why it was not rebuilt.

    ``kept`` is what lies outside the store and could not be repaired, or was written by another
    release: neither is ours to move.
    """

    path: Path
    action: Action
    reason: str | None = None
    now_at: Path | None = None


def repair_artifact(
    directory: Path,
    store: LocalStore,
    *,
    rebuild: Callable[[dict[str, Any]], object],
    fetch: Callable[[str], object] | None = None,
    model: str | None = None,
    verdict: Verdict | None = None,
) -> Repair:
    """Make an artifact whole again: fetched from a remote store, else built, else set aside.

    Nothing is deleted. ``fetch`` gets a key and says whether it brought the artifact; ``rebuild``
    gets the options of a compile. What a newer release wrote is no damage, and what cannot
    be read is not known to be damaged: both are kept.
    """
    verdict = verdict or verify_artifact(directory, "full")
    if verdict.status in ("ok", "missing"):
        return Repair(directory, "sound")
    if verdict.status == "unreadable":
        return Repair(directory, "unreadable", verdict.problems[0])
    if verdict.status == "incompatible":
        return Repair(directory, "kept", verdict.problems[0])
    inside = directory.parent == store.root
    try:
        if inside and fetch and (fetched := _fetch_instead(directory, store, fetch)):
            return fetched
        rebuild(repair_flags(directory, verdict, model))
    except NeuronArtifactsError as error:
        if not (inside and directory.is_dir()):
            return Repair(directory, "kept", error.message)
        return Repair(directory, "quarantined", error.message, store.set_aside(directory))
    return Repair(directory, "rebuilt", now_at=directory)


def _fetch_instead(
    directory: Path, store: LocalStore, fetch: Callable[[str], object]
) -> Repair | None:
    """The damaged one makes way first, and comes back if there is nothing to replace it."""
    aside = store.set_aside(directory)
    try:
        if fetch(directory.name):
            return Repair(directory, "fetched", now_at=directory)
    finally:
        if not directory.exists():
            rename_without_replacing(aside, directory)
    return None


def request_of(spec: CompileSpec) -> dict[str, Any]:
    """What of a request neither the Neuron configuration nor the model's name tells."""
    request: dict[str, Any] = {
        name: getattr(spec, name) for name in _REQUEST if getattr(spec, name) is not None
    }
    if spec.extra:
        request["override_neuron_config"] = dict(spec.extra)
    return request


def _is_hub(source: str) -> bool:
    return not Path(source).is_absolute()


def _manifest(directory: Path) -> Any:
    try:
        return read_manifest(directory)
    except NeuronArtifactsError:
        return None


def _neuron_config(directory: Path) -> Mapping[str, Any]:
    try:
        return read_neuron_config(directory / CONFIG_FILE).content
    except NeuronArtifactsError:
        return {}
