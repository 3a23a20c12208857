"""optimum-neuron's directories: the weights rules of ``backend/pretrained_model.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.artifact.findings import Finding
from neuron_artifacts.artifact.neuron_weights import (
    WeightsReport,
    check_checkpoint,
    check_shards,
    has_checkpoint,
    read_ranks,
    shard_names,
)

CHECKPOINT_FOLDER = "checkpoint"

_KEY = "_serialized_key"
_VISION_KEY = "NxDVLMNeuronConfig"


def is_optimum(content: Mapping[str, Any]) -> bool:
    """Whether a ``neuron_config.json`` is optimum-neuron's (``configuration_utils.py``)."""
    return isinstance(content.get(_KEY), str)


def check_optimum(directory: Path, fields: Mapping[str, Any]) -> WeightsReport:
    """The model's configuration, every bundle, and the weights of each.

    Raises
    ------
    ValueError
        A field of the configuration makes no sense.
    """
    findings = []
    if not (directory / "config.json").is_file():
        findings.append(Finding("incomplete", "is missing", "config.json"))
    bundles = sorted(path.stem.removeprefix("model_") for path in directory.glob("model_*.pt"))
    if fields[_KEY] == _VISION_KEY:
        findings += [
            Finding("incomplete", "is missing: the export was interrupted", f"model_{name}.pt")
            for name in ("text", "vision")
            if name not in bundles
        ]
    weights = _check_weights(directory, fields, bundles)
    return WeightsReport(weights.shards, (*findings, *weights.findings))


def _check_weights(directory: Path, fields: Mapping[str, Any], bundles: list[str]) -> WeightsReport:
    checkpoint = directory / CHECKPOINT_FOLDER
    if not checkpoint.is_dir():
        return _check_plain(directory, fields)
    ranks = read_ranks(fields)
    folders = [f"{CHECKPOINT_FOLDER}/{name}/weights" for name in bundles]
    folders = folders if len(bundles) > 1 else [f"{CHECKPOINT_FOLDER}/weights"]
    # What has its first rank is read as shards; what has not, as a checkpoint to shard.
    sharded = [f for f in folders if (directory / f / shard_names(ranks)[0]).is_file()]
    report = check_shards(
        directory, (f"{f}/{name}" for f in sharded for name in shard_names(ranks))
    )
    if len(sharded) == len(folders) or has_checkpoint(checkpoint):
        return report
    absent = next(folder for folder in folders if folder not in sharded)
    lacking = Finding("incomplete", "is missing", f"{absent}/{shard_names(ranks)[0]}")
    return WeightsReport(report.shards, (*report.findings, lacking))


def _check_plain(directory: Path, fields: Mapping[str, Any]) -> WeightsReport:
    if has_checkpoint(directory):
        return check_checkpoint(directory)
    named = fields.get("checkpoint_id")
    if named is None:
        what = "it holds no weights, and names no checkpoint to fetch them from"
        return WeightsReport((), (Finding("incomplete", what, field="checkpoint_id"),))
    revision = fields.get("checkpoint_revision") or "main"
    what = f"its weights are not in it: they are fetched from {named}@{revision} when it is loaded"
    return WeightsReport((), (Finding("advice", what, field="checkpoint_id"),))
