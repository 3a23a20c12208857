"""How to build an artifact again from what is left of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.artifact.verify import Verdict
from neuron_artifacts.errors import NeuronArtifactsError, UsageError

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
    if flags.pop("enable_bucketing", True) is False:
        words += ["--override-neuron-config", '{"enable_bucketing": false}']
    for name, value in flags.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


def _is_hub(source: str) -> bool:
    return not Path(source).is_absolute()


def _manifest(directory: Path) -> Any:
    try:
        return read_manifest(directory)
    except NeuronArtifactsError:
        return None


def _neuron_config(directory: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((directory / "neuron_config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
