"""Files that NeuronConfig names, or that lie beside a checkpoint, and that end in the weights.

They are part of the key by their content. A quantised checkpoint that a build made itself is none
of them: it follows from the model, which is in the key already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts._files import DigestCache, load_json_object, read_regular
from neuron_artifacts.backends.nxdi.lora import adapter_paths
from neuron_artifacts.errors import ModelFormatError
from neuron_artifacts.model import ModelSnapshot

MARKER = "neuron-artifacts.json"
"""What the worker leaves in a quantised checkpoint: what it was made from, and of which files."""

MEDUSA_HEADS = "medusa_heads.pt"
_MOST_BYTES = 1 << 24


def input_digests(model: ModelSnapshot, fields: Mapping[str, Any]) -> dict[str, Any]:
    """SHA-256 of each file by what it is for: ``lora`` (by adapter), ``quantized``, ``medusa``.

    Raises
    ------
    ModelFormatError
        One of them cannot be read.
    """
    try:
        found: dict[str, Any] = {
            "lora": _adapters(fields.get("lora_config")),
            "quantized": _digests(_quantized_files(model, fields)),
            "medusa": _digests(_medusa_heads(model, fields)),
        }
    except OSError as error:
        raise ModelFormatError(f"{error.filename} cannot be read: {error.strerror}") from error
    return {name: files for name, files in found.items() if files}


def quantization_origin(model: ModelSnapshot, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a quantised checkpoint is made from, as :data:`MARKER` holds it."""
    settings = {
        name: value
        for name, value in fields.items()
        if name.startswith("quantiz") and name != "quantized_checkpoints_path"
    }
    settings["modules_to_not_convert"] = fields.get("modules_to_not_convert")
    return {
        "weights": {file.name: model.sha256(file) for file in model.weight_files},
        "settings": {name: repr(value) for name, value in settings.items()},
    }


def refuse_changes(
    models: Iterable[ModelSnapshot], before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """What was read while compiling must be what the key says.

    ``before`` and ``after`` are of :func:`input_digests`.

    Raises
    ------
    ModelFormatError
        A file has changed since.
    """
    changed = [
        str(file.path)
        for model in models
        for file in model.weight_files
        if file.path is not None
        and file.known_sha256 is None
        and model.digests.digest(file.path) != model.sha256(file)
    ]
    changed += [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if changed:
        raise ModelFormatError(
            f"changed while it was compiled: {', '.join(changed)}",
            hint="run the command again; nothing of it was kept",
        )


def _adapters(config: Any) -> dict[str, dict[str, str]]:
    if not isinstance(config, Mapping):
        return {}
    places = (config.get("lora_ckpt_paths"), config.get("lora_ckpt_paths_cpu"))
    paths = {name: path for place in places for name, path in adapter_paths(place).items()}
    # One that is missing is preflight's to name, beside whatever else is wrong.
    return {name: _digests(_files(Path(path))) for name, path in sorted(paths.items())}


def _quantized_files(model: ModelSnapshot, fields: Mapping[str, Any]) -> list[Path]:
    named = fields.get("quantized_checkpoints_path")
    if not fields.get("quantized") or not isinstance(named, str):
        return []
    path = Path(named)
    if path.is_file():
        return [path]
    return [] if _is_made(model, fields, path) else _quantized(path)


def _is_made(model: ModelSnapshot, fields: Mapping[str, Any], folder: Path) -> bool:
    """Whether a build made it from this model, with these settings, and nobody touched it since."""
    made = _read_marker(folder)
    if made is None:
        return False
    files = {file.name: file.stat() for file in _quantized(folder)}
    there = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()}
    return made == {**quantization_origin(model, fields), "files": there}


def is_stale(model: ModelSnapshot, fields: Mapping[str, Any]) -> bool:
    """Whether a build made the quantised checkpoint of something else than is asked for now."""
    made = _read_marker(Path(fields["quantized_checkpoints_path"]))
    origin = quantization_origin(model, fields)
    return made is not None and any(made.get(name) != part for name, part in origin.items())


def _read_marker(folder: Path) -> dict[str, Any] | None:
    try:
        return load_json_object(read_regular(folder / MARKER, _MOST_BYTES))
    except (OSError, ValueError):
        return None


def _quantized(folder: Path) -> list[Path]:
    return [file for file in _files(folder) if file.name != MARKER]


def _medusa_heads(model: ModelSnapshot, fields: Mapping[str, Any]) -> list[Path]:
    heads = [] if model.root is None else [model.root / MEDUSA_HEADS]
    return [file for file in heads if fields.get("is_medusa") and file.is_file()]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def _digests(files: Iterable[Path]) -> dict[str, str]:
    digests = DigestCache()
    return {file.name: digests.digest(file) for file in files}
