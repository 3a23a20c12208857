"""A model as a set of files with digests, wherever it came from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_artifacts._files import (
    DigestCache,
    is_safe_relative,
    load_json_object,
    read_regular,
    shorten,
    stat_regular,
)
from neuron_artifacts.errors import ModelFormatError, ModelNotFoundError
from neuron_artifacts.model.safetensors_header import TensorInfo, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
TOKENIZER_NAME = "tokenizer.json"
SAVE_TOKENIZER = (
    "save it beside the model, AutoTokenizer.from_pretrained(…).save_pretrained(…), and compile "
    "again: graphs are reused"
)

ASSET_NAMES = (
    GENERATION_NAME, TOKENIZER_NAME, "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json",
    "merges.txt", "tokenizer.model",
)  # fmt: skip
"""Small files that decide what is served without shaping a graph."""

TEMPLATE_FOLDER = "additional_chat_templates"
"""Where transformers keeps chat templates that have a name."""

MAX_JSON_BYTES = 64 << 20
"""A model's JSON file larger than this is refused unread (large tokenizers take about 20 MB)."""


_LOOKALIKES = {
    "artifact.json": "it is an artifact: serve it, or name the model it was compiled from",
    "adapter_config.json": "a LoRA adapter is no model: merge it into its base model "
    "(peft's merge_and_unload), or compile the base model",
    ".gguf": "GGUF is not read: name the safetensors model it was made from",
    "model_index.json": "a diffusion pipeline is no language model",
}
"""What people take for a model, by a file's name or how it ends, and what to name instead."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a model; ``path`` is ``None`` while it is only known to exist on the hub."""

    name: str
    size: int
    path: Path | None
    known_sha256: str | None = None


@dataclass(frozen=True)
class ModelSnapshot:
    """A model at one moment: its configuration and the files that belong to it.

    ``name`` is the hub id or the folder's own name, for people; it never enters a key.
    ``tensors`` maps each weight file to its safetensors header.
    """

    name: str
    revision: str | None
    root: Path | None
    config: Mapping[str, Any]
    weight_files: tuple[ModelFile, ...]
    asset_files: tuple[ModelFile, ...]
    tensors: Mapping[str, Mapping[str, TensorInfo]]
    index: Mapping[str, Any] | None = None
    digests: DigestCache = field(default_factory=DigestCache, compare=False)
    _hashed: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def source(self) -> str:
        """What to name to get this model again: the hub id, or the folder's place."""
        return self.name if self.revision or not self.root else str(self.root.absolute())

    @property
    def weight_bytes(self) -> int:
        return sum(file.size for file in self.weight_files)

    @property
    def all_tensors(self) -> dict[str, TensorInfo]:
        """Every tensor of the checkpoint, over all its files."""
        return {name: info for header in self.tensors.values() for name, info in header.items()}

    def sha256(self, file: ModelFile, on_bytes: Callable[[int], None] | None = None) -> str:
        """The file's digest: from the hub's metadata where it is there, else from the bytes."""
        if file.known_sha256:
            return file.known_sha256
        if file.name not in self._hashed:
            if file.path is None:
                raise ModelNotFoundError(f"{file.name} is not on this machine")
            try:
                self._hashed[file.name] = self.digests.digest(file.path, on_bytes)
            except OSError as error:
                raise ModelFormatError(f"{file.path} cannot be read: {error.strerror}") from error
        return self._hashed[file.name]


def lookalike(*names: str) -> str | None:
    """What to do about files of these names, where they are something else than a model."""
    return next(
        (said for end, said in _LOOKALIKES.items() if any(name.endswith(end) for name in names)),
        None,
    )


def is_asset(name: str) -> bool:
    """Whether a file of a model belongs into an artifact beside graphs and weights."""
    if name in ASSET_NAMES:
        return True
    folder, _, template = name.partition("/")
    return folder == TEMPLATE_FOLDER and template.endswith(".jinja") and "/" not in template


def read_folder(root: Path, *, name: str | None = None, revision: str | None = None,
                known: Mapping[str, str] | None = None) -> ModelSnapshot:  # fmt: skip
    """Read a checkpoint folder and check it for completeness, header by header.

    ``known`` gives digests that somebody vouches for, by file name.

    Raises
    ------
    ModelNotFoundError
        No such folder.
    ModelFormatError
        A file is missing, cut short or malformed.
    """
    if not root.is_dir():
        raise ModelNotFoundError(
            f"{root} is not a folder", hint="name a model folder or a hub id, e.g. org/name"
        )
    known = known or {}
    _refuse_stray_link(root, CONFIG_NAME)
    config = read_json(root / CONFIG_NAME)
    names, index = weight_names(root)
    weights = tuple(_file(root, file, known) for file in names)
    tensors = {file.name: read_header(_local(file)) for file in weights}
    check_index(root, index, tensors)
    there = [
        *ASSET_NAMES,
        *(f"{TEMPLATE_FOLDER}/{p.name}" for p in (root / TEMPLATE_FOLDER).glob("*")),
    ]
    assets = tuple(
        _file(root, name, known) for name in there if is_asset(name) and (root / name).is_file()
    )
    return ModelSnapshot(
        name=name or root.resolve().name, revision=revision, root=root, config=config,
        weight_files=weights, asset_files=assets, tensors=tensors, index=index,
    )  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model, or a ModelFormatError that names the file and the trouble."""
    try:
        return load_json_object(read_regular(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        raise ModelFormatError(
            f"{path.parent} has no {path.name}",
            hint=lookalike(*_names(path.parent))
            or "name a folder in Hugging Face layout: config.json beside model*.safetensors",
        ) from None
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelFormatError(f"{path} is not usable JSON: {error}") from None


def shard_names(index: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The weight files a ``model.safetensors.index.json`` names, in order.

    Raises
    ------
    ModelFormatError
        The map is missing or malformed, or a name would leave the folder.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFormatError(f"{where} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if not is_safe_relative(name) or not name.endswith(".safetensors"):
            raise ModelFormatError(f"{where} names a weight file that is refused: {shorten(name)}")
    return tuple(names)


def pick_weights(names: Collection[str], where: str) -> str:
    """Which of a model's files leads to its weights: the index, else the single file.

    Raises
    ------
    ModelFormatError
        There is neither.
    """
    for name in (INDEX_NAME, SINGLE_NAME):
        if name in names:
            return name
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
    if pickled:
        raise ModelFormatError(
            f"{where} has its weights only as {pickled[0]}, a pickle, which is never loaded",
            hint="save the model with safe_serialization=True",
        )
    raise ModelFormatError(
        f"{where} has no weights: neither {SINGLE_NAME} nor {INDEX_NAME}",
        hint=lookalike(*names) or "download the model whole, or export it with save_pretrained",
    )


def check_index(
    where: str | Path,
    index: Mapping[str, Any] | None,
    tensors: Mapping[str, Mapping[str, TensorInfo]],
) -> None:
    """Check that each tensor lies in one file only, and where the index says.

    Raises
    ------
    ModelFormatError
        The headers say otherwise.
    """
    seen: dict[str, str] = {}
    for file, header in tensors.items():
        for tensor in header:
            if seen.setdefault(tensor, file) != file:
                raise ModelFormatError(
                    f"{where} holds {shorten(tensor)} twice: {seen[tensor]} and {file}"
                )
    for tensor, file in (index or {}).get("weight_map", {}).items():
        if seen.get(tensor) != file:
            raise ModelFormatError(
                f"{where}: {INDEX_NAME} places {shorten(tensor)} in {shorten(file)}, "
                "which does not hold it",
                hint="download the model whole",
            )


def weight_names(root: Path) -> tuple[tuple[str, ...], dict[str, Any] | None]:
    """The weight files that a folder says it has, and the index that says so.

    Raises
    ------
    ModelFormatError
        There are none, or the index is malformed.
    """
    name = pick_weights(_names(root), str(root))
    if name == SINGLE_NAME:
        return (SINGLE_NAME,), None
    _refuse_stray_link(root, name)
    index = read_json(root / name)
    return shard_names(index, str(root / name)), index


def _names(root: Path) -> set[str]:
    try:
        return {path.name for path in root.iterdir() if path.is_file()}
    except OSError as error:
        raise ModelFormatError(f"{root} cannot be read: {error.strerror}") from error


def _refuse_stray_link(root: Path, name: str) -> None:
    """A link out of the folder leads to a file of the same name, or into the hub's own cache.

    What a model's file holds is copied into artifacts, and those are pushed: a stranger's
    ``vocab.json`` must not be somebody's private key.
    """
    path = root / name
    if not path.exists():
        return
    real, folders = path.resolve(), [root]
    if root.parent.name == "snapshots":  # blobs of the repository, and those that all share
        folders += [root.parents[1] / "blobs", *(root.parents[2:3] and [root.parents[2] / "blobs"])]
    if real.name == path.name or any(real.is_relative_to(f.resolve()) for f in folders):
        return
    raise ModelFormatError(
        f"{path} is a link out of the folder, to {shorten(str(real))}",
        hint="look where it leads, and put a copy in its place if that is meant",
    )


def _file(root: Path, name: str, known: Mapping[str, str]) -> ModelFile:
    path = root / name
    _refuse_stray_link(root, name)
    try:
        return ModelFile(name, stat_regular(path).st_size, path, known.get(name))
    except FileNotFoundError:
        raise ModelFormatError(
            f"{root} lacks {name}, which its index names", hint="download the model whole"
        ) from None
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}") from error


def _local(file: ModelFile) -> Path:
    if file.path is None:
        raise ModelNotFoundError(f"{file.name} is not on this machine")
    return file.path
