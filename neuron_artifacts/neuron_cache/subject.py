"""The model to look up, read with as few requests as possible: no weights, no listing."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from neuron_artifacts._files import load_json_object, read_regular
from neuron_artifacts.errors import HubError, ModelFormatError, ModelNotFoundError
from neuron_artifacts.model.hub_errors import Asked, MissingEntryError, explain, failures
from neuron_artifacts.neuron_cache.client import CacheRepository, Hub, in_parallel
from neuron_artifacts.neuron_cache.preexported import NEURON_CONFIG_NAME, PreExported, recognise
from neuron_artifacts.neuron_cache.responses import Responses

CONFIG_NAME = "config.json"
PIPELINE_NAME = "model_index.json"
MAX_CONFIG_BYTES = 16 << 20

_COMPONENT = re.compile(
    r"unet|transformer(_\d)?|text_encoder(_\d)?|controlnet|prior|image_encoder|encoder|decoder"
)
_HALVES = ("encoder", "decoder")
"""Folders of an encoder-decoder model that ``optimum-cli export neuron`` made: nothing above."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelConfig:
    """A model's configuration: config.json, or for a pipeline that of each component by name.

    ``model_id`` is ``None`` for a folder; ``age`` is the number of seconds since the hub gave it,
    ``None`` if it did just now.
    """

    model_id: str | None
    config: Mapping[str, Any]
    age: float | None = None


class ModelFiles(Protocol):
    """Small files of a model, wherever it is."""

    name: str
    age: float | None

    def read(self, name: str) -> bytes | None:
        """A file's bytes; ``None`` if the model has no such file."""

    def exists(self, name: str) -> bool: ...

    def names(self) -> frozenset[str]:
        """What lies at the root."""


def open_model(model: str, hub: Hub, *, revision: str | None = None) -> ModelFiles:
    """A folder where there is one, else a hub repository.

    Raises
    ------
    ModelNotFoundError
        ``model`` can be neither.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _Folder(path)
    if path.exists() or not _HUB_ID.fullmatch(model):
        raise ModelNotFoundError(
            f"{model} is neither a folder nor a hub id",
            hint="name a model folder or a hub id, e.g. org/name",
        )
    return _Repository(model, hub, revision or "main")


def read_config(files: ModelFiles) -> ModelConfig:
    """Read config.json, or what model_index.json names, or both halves of a compiled model.

    Raises
    ------
    ModelFormatError
        There is neither, or one is malformed.
    ModelNotFoundError, HubError
        No such repository, or it cannot be reached.
    """
    config = _read_object(files, CONFIG_NAME)
    if config is None:
        index = _read_object(files, PIPELINE_NAME)
        names = (
            _HALVES
            if index is None
            else tuple(n for n, v in index.items() if _COMPONENT.fullmatch(n) and _is_used(v))
        )
        found = in_parallel(lambda name: _read_object(files, f"{name}/{CONFIG_NAME}"), names)
        config = {n: c for n, c in zip(names, found, strict=True) if c is not None}
        if index is None and not config:
            raise ModelFormatError(
                f"{files.name} has neither {CONFIG_NAME} nor {PIPELINE_NAME}",
                hint="name a model in Hugging Face layout",
            )
    model_id = None if isinstance(files, _Folder) else files.name
    return ModelConfig(model_id, config, files.age)


def find_pre_exported(files: ModelFiles, config: Mapping[str, Any]) -> PreExported | None:
    """Whether the model is a compiled one; asks a hub once unless it is."""
    if not files.exists(NEURON_CONFIG_NAME):
        return recognise(config, None)
    return recognise(config, _read_object(files, NEURON_CONFIG_NAME), files.names())


def find_pipeline_tag(hub: Hub, model_id: str) -> str | None:
    """The task a hub shows for a model; ``None`` if it shows none or cannot be asked."""
    kept = Responses(hub.endpoint, model_id, hub.cache_dir)
    if hub.offline:
        known = kept.file("", _TAG)
        return known.data.decode() or None if known else None
    try:
        url = hub.url("api/models", model_id)
        answer = hub.ask(url, params={"expand": _TAG}).json()
    except failures():
        return None  # the config alone then has to do
    tag = answer.get(_TAG) if isinstance(answer, dict) else None
    kept.keep_file("", _TAG, str(tag or "").encode(), None)
    return tag if isinstance(tag, str) else None


_TAG = "pipeline_tag"


class _Folder:
    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self.age: float | None = None
        self._root = root

    def read(self, name: str) -> bytes | None:
        try:
            return read_regular(self._root / name, MAX_CONFIG_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            where = f"{self._root / name} cannot be read"
            raise ModelFormatError(f"{where}: {error.strerror}") from error
        except ValueError as error:
            raise ModelFormatError(f"{self._root / name} is {error}") from None

    def exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def names(self) -> frozenset[str]:
        return frozenset(path.name for path in self._root.iterdir())


class _Repository:
    def __init__(self, repo_id: str, hub: Hub, revision: str) -> None:
        self.name = repo_id
        self.age: float | None = None
        self._hub = hub
        self._revision = revision
        self._kept = Responses(hub.endpoint, repo_id, hub.cache_dir)

    def read(self, name: str) -> bytes | None:
        if self._hub.offline:
            return self._read_kept(name)
        response = self._ask(name, "GET")
        if response is None:
            return None
        data = bytes(response.content)
        if len(data) > MAX_CONFIG_BYTES:
            limit = MAX_CONFIG_BYTES >> 20
            raise ModelFormatError(f"{self.name}/{name} is larger than {limit} MiB")
        self._kept.keep_file(self._revision, name, data, response.headers.get("X-Repo-Commit"))
        return data

    def exists(self, name: str) -> bool:
        if self._hub.offline:
            return self._kept.file(self._revision, name) is not None
        return self._ask(name, "HEAD") is not None

    def names(self) -> frozenset[str]:
        repository = CacheRepository(self.name, self._hub, revision=self._revision)
        return frozenset(item.path for item in repository.list_folder())

    def _ask(self, name: str, method: str) -> Any:
        url = self._hub.url(self.name, "resolve", quote(self._revision, safe=""), quote(name))
        try:
            return self._hub.ask(url, method=method)
        except MissingEntryError:
            return None
        except failures() as error:
            asked = Asked(self.name, self._revision, self._hub.endpoint)
            raise explain(error, asked, name=name) from error

    def _read_kept(self, name: str) -> bytes | None:
        """What a lookup kept, else what huggingface_hub's own cache holds."""
        kept = self._kept.file(self._revision, name)
        if kept:
            self.age = max(self.age or 0.0, time.time() - kept.at)
            return kept.data
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.name, name, revision=self._revision)
        if isinstance(path, str):
            self.age = max(self.age or 0.0, time.time() - Path(path).stat().st_mtime)
            return read_regular(Path(path), MAX_CONFIG_BYTES)
        if name == PIPELINE_NAME:
            raise HubError(
                f"no configuration of {self.name} was fetched before, and --offline forbids to ask",
                hint="run the command once without --offline",
            )
        return None


def _is_used(value: Any) -> bool:
    """model_index.json names a component's library and class, or two nulls."""
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _read_object(files: ModelFiles, name: str) -> dict[str, Any] | None:
    data = files.read(name)
    if data is None:
        return None
    try:
        return load_json_object(data)
    except ValueError as error:
        raise ModelFormatError(f"{files.name}/{name} is not usable JSON: {error}") from None
