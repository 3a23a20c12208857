"""Are the weights of a Neuron directory there: every rank's shard, or a checkpoint to shard?

NxD Inference (``models/application_base.py``, ``load_weights`` and ``checkpoint_loader_fn``) reads
``weights/tp<rank>_sharded_checkpoint.safetensors`` where ``save_sharded_checkpoint`` says so, and
otherwise the original checkpoint: at ``_name_or_path`` if that exists on the machine, else in the
directory itself. Adapters that are swapped at run time have shards of their own
(``modules/lora_serving/lora_checkpoint.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import is_safe_relative, stat_regular
from neuron_artifacts.artifact.findings import Finding, severity_of
from neuron_artifacts.errors import ModelError
from neuron_artifacts.model.safetensors_header import read_header
from neuron_artifacts.model.snapshot import weight_names

MAX_RANKS = 4096

CHECKPOINT_FILES = (
    "model.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
"""What ``load_state_dict`` of ``modules/checkpoint.py`` looks for, in its order."""

QUANTIZED, DRAFT = "quantized", "draft"
"""Where our artifacts carry them if nothing is sharded; only the bundled loader looks there."""

ELSEWHERE = "_name_or_path"
"""The field of a finding about weights that lie outside the directory."""

_SHARD = re.compile(r"(?:.*_)?tp(\d+)_sharded(?:_lora_cpu)?_checkpoint\.safetensors")


@dataclass(frozen=True)
class ShardFile:
    """A shard with a sound header; ``path`` is relative to the directory."""

    path: str
    size: int
    tensors: int


@dataclass(frozen=True)
class Ranks:
    """The ranks one host loads: ``count`` of them from ``start`` on."""

    start: int
    count: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.start + self.count))


@dataclass(frozen=True)
class WeightsReport:
    shards: tuple[ShardFile, ...]
    findings: tuple[Finding, ...]


def read_ranks(fields: Mapping[str, Any]) -> Ranks:
    """Which ranks a NeuronConfig asks this host to load.

    Raises
    ------
    ValueError
        A field is not a number that makes sense; the message names it.
    """
    degrees = [whole(fields, f"{kind}_degree", 1) for kind in ("tp", "pp", "ep")]
    world = whole(fields, "world_size", degrees[0] * degrees[1] * degrees[2])
    return Ranks(
        whole(fields, "start_rank_id", 0, minimum=0), whole(fields, "local_ranks_size", world)
    )


def whole(fields: Mapping[str, Any], name: str, default: int, *, minimum: int = 1) -> int:
    """A field that must be a small whole number; absent and null mean the default.

    Raises
    ------
    ValueError
        It is not; the message names it.
    """
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= MAX_RANKS:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def check_weights(
    directory: Path, config: Mapping[str, Any], prefixes: Iterable[str]
) -> WeightsReport:
    """NxD Inference's weights below each prefix (one for each ``model.pt``)."""
    fields = config["neuron_config"]
    if not fields.get("save_sharded_checkpoint"):
        return WeightsReport((), tuple(_check_unsharded(directory, config)))
    names = [
        f"{prefix}weights/{name}"
        for prefix in prefixes
        for name in (*shard_names(read_ranks(fields)), *_adapter_shards(fields))
    ]
    report = check_shards(directory, names)
    strays = [_check_strays(directory / prefix / "weights", prefix, names) for prefix in prefixes]
    return WeightsReport(report.shards, (*report.findings, *(f for rows in strays for f in rows)))


def shard_names(ranks: Ranks) -> list[str]:
    return [f"tp{rank}_sharded_checkpoint.safetensors" for rank in ranks]


def check_shards(directory: Path, names: Iterable[str]) -> WeightsReport:
    """Each named file is there and its header holds."""
    shards: list[ShardFile] = []
    findings: list[Finding] = []
    for name in names:
        path = directory / name
        try:
            stat_regular(path)
            tensors = read_header(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            findings.append(Finding("incomplete", "is missing", name))
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            findings.append(Finding(severity_of(error), what, name))
        except ModelError as error:
            what = error.message.replace(f"{path} ", "", 1)
            findings.append(Finding(severity_of(error), what, name))
        else:
            shards.append(ShardFile(name, path.stat().st_size, len(tensors)))
    return WeightsReport(tuple(shards), tuple(findings))


def check_checkpoint(folder: Path) -> WeightsReport:
    """A checkpoint as it was downloaded: every file its index names, header by header."""
    try:
        names, _ = weight_names(folder)
    except ModelError:
        return WeightsReport((), ())  # pickled weights: the library's to read, never ours
    return check_shards(folder, names)


def has_checkpoint(folder: Path) -> bool:
    """Whether NxD Inference would find weights there."""
    return any(is_file(folder / name) for name in CHECKPOINT_FILES)


def is_file(path: Path) -> bool:
    """Whether a file is there that may be looked at; a path in a configuration is anything."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def adapter_paths(fields: Mapping[str, Any]) -> dict[str, str]:
    """Where each LoRA adapter was; its configuration is read again whenever the model is loaded."""
    lora = fields.get("lora_config")
    if not isinstance(lora, Mapping):
        return {}
    found = {**_paths(lora, "lora_ckpt_paths"), **_paths(lora, "lora_ckpt_paths_cpu")}
    return {str(name): str(path) for name, path in found.items()}


def _adapter_shards(fields: Mapping[str, Any]) -> list[str]:
    lora = fields.get("lora_config")
    if not isinstance(lora, Mapping) or not lora.get("dynamic_multi_lora"):
        return []
    names = _paths(lora, "lora_ckpt_paths_cpu")
    for name in names:
        if not is_safe_relative(name) or "/" in name:
            raise ValueError(f"lora_ckpt_paths_cpu names an adapter {name!r:.40}")
    return [
        f"{name}_tp{rank}_sharded_lora_cpu_checkpoint.safetensors"
        for name in names
        for rank in read_ranks(fields)
    ]


def _paths(lora: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    paths = lora.get(name)
    return paths if isinstance(paths, Mapping) else {}


def _check_strays(folder: Path, prefix: str, names: list[str]) -> list[Finding]:
    """Shards of ranks that nobody loads: another node's, or an earlier compile's."""
    try:
        found = sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
    strays = [name for name in found if _SHARD.fullmatch(name)]
    return [
        Finding("note", "is of a rank that this configuration does not load", path)
        for name in strays
        if (path := f"{prefix}weights/{name}") not in names
    ]


def _check_unsharded(directory: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Would the checkpoint be found if it were loaded here?"""
    fields = config["neuron_config"]
    yield from _check_draft(directory, config, fields)
    if fields.get("quantized"):
        place = str(fields.get("quantized_checkpoints_path"))
        if (directory / QUANTIZED).is_dir():
            yield from _check_carried(directory, QUANTIZED, place)
        else:
            yield _judge_place(place, None)
        return
    named = config.get("_name_or_path")
    if isinstance(named, str) and named and _exists(named):
        if not _is_same(named, directory):
            yield _judge_place(named, directory)
            if not has_checkpoint(directory):
                return
    elif not has_checkpoint(directory):
        yield Finding(
            "incomplete", "it holds no weights, and the checkpoint it would shard, "
            f"{named!r:.200}, is not on this machine", field=ELSEWHERE,
        )  # fmt: skip
        return
    yield from check_checkpoint(directory).findings


def _check_carried(directory: Path, name: str, place: str) -> Iterator[Finding]:
    """A checkpoint that the directory has; vLLM knows the place that was compiled with alone."""
    if not _exists(place):
        what = f"vLLM reads these weights at {place!r:.200}, which is not on this machine"
        yield Finding("advice" if name == DRAFT else "note", what, name)
    try:
        files, _ = weight_names(directory / name)
    except ModelError:
        yield Finding("incomplete", "holds no checkpoint", name)
        return
    yield from check_shards(directory, [f"{name}/{file}" for file in files]).findings


def _judge_place(place: str, directory: Path | None) -> Finding:
    """A place that wins over the directory itself, whatever lies there."""
    if directory is None:
        found, here = _exists(place), False
    else:
        found, here = has_checkpoint(Path(place)), has_checkpoint(directory)
    if found and here:
        what = f"on this machine its weights are read from {place}, not from the directory"
        return Finding("note", what, field=ELSEWHERE)
    if found:
        what = f"its weights are not in it: they are sharded from {place} whenever it is loaded"
        return Finding("advice", what, field=ELSEWHERE)
    what = f"its weights are looked for in {place!r:.200}, where there are none"
    return Finding("incomplete", what, field=ELSEWHERE)


def _check_draft(
    directory: Path, config: Mapping[str, Any], fields: Mapping[str, Any]
) -> Iterator[Finding]:
    fused = config.get("fused_spec_config")
    if not fields.get("enable_fused_speculation") or not isinstance(fused, Mapping):
        return
    draft = str(fused.get("draft_model_path"))
    if (directory / DRAFT).is_dir():
        yield from _check_carried(directory, DRAFT, draft)
    elif not has_checkpoint(Path(draft)):
        what = f"the draft model it would shard, {draft!r:.200}, is not on this machine"
        yield Finding("incomplete", what, field="draft_model_path")


def _exists(place: str) -> bool:
    try:
        return Path(place).exists()
    except (OSError, ValueError):  # not ours to look at; a zero byte
        return False


def _is_same(place: str, directory: Path) -> bool:
    try:
        return directory.samefile(place)
    except OSError:
        return False
