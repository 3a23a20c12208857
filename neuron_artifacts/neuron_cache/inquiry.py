"""One model and what is wanted of it, put to any number of caches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import UsageError
from neuron_artifacts.neuron_cache.client import Hub
from neuron_artifacts.neuron_cache.folder import FolderRepository
from neuron_artifacts.neuron_cache.lookup import (
    Question,
    default_repositories,
    judge_registry,
    look_up_opened,
    open_repositories,
)
from neuron_artifacts.neuron_cache.match import CacheRequest, Subject
from neuron_artifacts.neuron_cache.outcome import SourceOutcome
from neuron_artifacts.neuron_cache.preexported import PreExported
from neuron_artifacts.neuron_cache.reading import open_registry
from neuron_artifacts.neuron_cache.subject import (
    ModelConfig,
    ModelFiles,
    find_pre_exported,
    open_model,
    read_config,
)
from neuron_artifacts.spec import CompileSpec


@dataclass(frozen=True)
class CacheOptions:
    """Which caches are asked, and which of their entries count as usable.

    ``repos`` are asked in their order; none means the one optimum-neuron would use.
    """

    repos: tuple[str, ...] = ()
    release: str | None = None
    compiler: str | None = None
    task: str | None = None
    prove: bool = False


@dataclass(frozen=True)
class CacheAnswer:
    """What Neuron caches know of a model: an outcome for each, the nearest first."""

    request: CacheRequest
    outcomes: tuple[SourceOutcome, ...]
    pre_exported: PreExported | None

    @property
    def hit(self) -> SourceOutcome | None:
        """The first cache that has what was asked for."""
        return next((outcome for outcome in self.outcomes if outcome.status == "hit"), None)


class Inquiry:
    """A question to caches; the model's configuration is read when it is first needed, once.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, HubError
        From every method: the model, or every cache asked, cannot be read.
    """

    def __init__(
        self,
        model: str,
        request: CacheRequest,
        hub: Hub,
        *,
        revision: str | None = None,
        options: CacheOptions | None = None,
    ) -> None:
        self.request = request
        self.options = options or CacheOptions()
        self._model = model
        self._revision = revision
        self._hub = hub

    @cached_property
    def model(self) -> ModelConfig:
        return read_config(self._files)

    def ask_folder(self, root: Path, name: str) -> SourceOutcome | None:
        """What the local compile cache has; ``None`` if optimum-neuron never used it."""
        folder = FolderRepository(root)
        if not folder.has_registry():
            return None
        registry = open_registry(folder, self.options.release, self.options.compiler)
        return judge_registry(folder, registry, name, self._question, self._hub)

    def ask_repositories(self) -> list[SourceOutcome]:
        """What each cache repository has. They are listed while the model is read."""
        repos = self.options.repos or default_repositories()
        with ThreadPoolExecutor(1) as aside:
            model = aside.submit(lambda: self.model)
            opened = open_repositories(
                repos, self.options.release, self.options.compiler, self._hub
            )
            model.result()
        return look_up_opened(opened, self._question, self._hub)

    @property
    def _question(self) -> Question:
        options, model = self.options, self.model
        subject = Subject(model.config, model.model_id, options.task)
        return Question(subject, self.request, options.release, options.compiler, options.prove)

    def find_pre_exported(self, outcomes: Sequence[SourceOutcome]) -> PreExported | None:
        """Whether the model is compiled already; asks the hub once unless outcomes tell."""
        # A model that entries were compiled from has weights: it is no compiled one.
        if any(self.model.model_id in outcome.model_ids() for outcome in outcomes):
            return None
        return find_pre_exported(self._files, self.model.config)

    def ask(self, local: Path | None = None) -> CacheAnswer:
        """Ask the local compile cache, where there is one, and then every repository.

        A hit on this machine ends it: no repository could answer better.
        """
        found = self.ask_folder(local, str(local)) if local else None
        outcomes = [found] if found else []
        if not (found and found.status == "hit"):
            outcomes += self.ask_repositories()
        return CacheAnswer(self.request, tuple(outcomes), self.find_pre_exported(outcomes))

    @cached_property
    def _files(self) -> ModelFiles:
        return open_model(self._model, self._hub, revision=self._revision)


def request_of(spec: CompileSpec, *, host_target: str | None = None) -> CacheRequest:
    """What a compile request asks of a cache: the options somebody set.

    ``host_target`` is the target of this host's device, wanted unless another is asked for.

    Raises
    ------
    UsageError
        A field of ``override_neuron_config`` has a value of another type than entries give it.
    """
    asked = {n: getattr(spec, n) for n, o in spec.origins.items() if o != "default" and n in _NAMES}
    fields: dict[str, Any] = {_NAMES[name]: value for name, value in asked.items()}
    if fields.get("target") in (None, "native"):
        fields["target"] = host_target
    other = {"speculation_length": spec.num_speculative_tokens, **spec.extra}
    if spec.max_context_length is not None:
        other["max_context_length"] = spec.max_context_length
    for name, kind in (("continuous_batching", bool), ("speculation_length", int)):
        value = other.pop(name, None)
        if value is not None and type(value) is not kind:
            raise UsageError(f"{name} must be {_KINDS[kind]}, got {value!r}")
        fields[name] = value
    shaped = any(value is not None for name, value in fields.items() if name != "target")
    if shaped and fields["speculation_length"] is None:
        fields["speculation_length"] = 0  # it changes the graphs, and no export has it unless told
    return CacheRequest(**fields, other=other)


_NAMES = {"batch_size": "batch_size", "seq_len": "sequence_length", "tp_degree": "tp_degree",
          "torch_dtype": "dtype", "target": "target"}  # fmt: skip
_KINDS = {bool: "true or false", int: "a whole number"}
