"""Looking a model up in Neuron cache repositories."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.neuron_cache.client import CacheRepository, Hub, in_parallel
from neuron_artifacts.neuron_cache.match import (
    CacheRequest,
    Subject,
    is_same_model,
    is_task_open,
)
from neuron_artifacts.neuron_cache.outcome import Row, Skipped, SourceOutcome, judge
from neuron_artifacts.neuron_cache.reading import Reader, Registry, Repository, open_registry
from neuron_artifacts.neuron_cache.registry import COMPILER_PREFIX, Entry
from neuron_artifacts.neuron_cache.subject import find_pipeline_tag

PUBLIC_REPOSITORY = "aws-neuron/optimum-neuron-cache"
_SAVED_NAME = "optimum_neuron_custom_cache"


def default_repositories(environ: Mapping[str, str] | None = None) -> list[str]:
    """The repository optimum-neuron would use, which is only one.

    ``CUSTOM_CACHE_REPO``, else the name it saved in ``HF_HOME``, else the public one
    (``utils/cache_utils.py`` there).
    """
    environ = os.environ if environ is None else environ
    if named := environ.get("CUSTOM_CACHE_REPO", "").strip():
        return [named]
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    saved = Path(environ.get("HF_HOME") or f"{base}/huggingface").expanduser() / _SAVED_NAME
    try:
        return [saved.read_text(encoding="utf-8").strip() or PUBLIC_REPOSITORY]
    except (OSError, UnicodeDecodeError):
        return [PUBLIC_REPOSITORY]


@dataclass(frozen=True)
class Question:
    """A model, what is wanted of it, and which entries count as usable."""

    subject: Subject
    request: CacheRequest
    release: str | None = None
    compiler: str | None = None
    prove: bool = False


def look_up(
    model_config: Mapping[str, Any],
    request: CacheRequest,
    *,
    repos: Sequence[str] | None = None,
    release: str | None = None,
    compiler: str | None = None,
    task: str | None = None,
    model_id: str | None = None,
    pipeline_tag: str | None = None,
    offline: bool = False,
    prove: bool = False,
    hub: Hub | None = None,
) -> list[SourceOutcome]:
    """What each cache repository has for a model and a Neuron configuration, in their order.

    ``model_config`` is config.json as parsed, or for a diffusion pipeline the config of each
    component by its name. ``release`` (of optimum-neuron) and ``compiler`` (of neuronx-cc, a
    leading part suffices) say what counts as usable; by default the newest release present.
    ``prove`` checks that the graphs of traced rows are there, with one more request.

    A repository that cannot be asked is an outcome of its own (``error``) beside others.

    Raises
    ------
    HubError, ModelNotFoundError
        No repository could be asked.
    """
    hub = hub or Hub(offline=offline)
    opened = open_repositories(repos or default_repositories(), release, compiler, hub)
    return look_up_opened(opened, Question(Subject(model_config, model_id, task, pipeline_tag),
                                           request, release, compiler, prove), hub)  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A repository whose registry is listed, or why it is not."""

    repository: CacheRepository
    registry: Registry | NeuronArtifactsError


def open_repositories(
    repos: Sequence[str], release: str | None, compiler: str | None, hub: Hub
) -> list[Opened]:
    """List the registries that a lookup will read: this takes no model to be known."""

    def opened(repo_id: str) -> Opened:
        repository = CacheRepository(repo_id, hub)
        try:
            return Opened(repository, open_registry(repository, release, compiler))
        except NeuronArtifactsError as error:
            return Opened(repository, error)

    return in_parallel(opened, repos)


def look_up_opened(opened: Sequence[Opened], question: Question, hub: Hub) -> list[SourceOutcome]:
    """What each has, in their order. Raises like :func:`look_up`."""
    outcomes, errors = [], []
    for one in opened:
        name = one.repository.repo_id
        try:
            if isinstance(one.registry, NeuronArtifactsError):
                raise one.registry
            outcome = judge_registry(one.repository, one.registry, name, question, hub)
        except NeuronArtifactsError as error:
            errors.append(error)
            outcome = SourceOutcome(name, "error", error=error.message)
        outcomes.append(replace(outcome, requests=one.repository.requests))
    if errors and len(errors) == len(outcomes):
        raise errors[0]
    return outcomes


def list_entries(
    *,
    repos: Sequence[str] | None = None,
    release: str | None = None,
    compiler: str | None = None,
    offline: bool = False,
    hub: Hub | None = None,
) -> dict[str, tuple[tuple[Entry, ...], tuple[Skipped, ...]]]:
    """Every entry of the usable release, and what could not be read, by repository.

    Raises
    ------
    HubError, ModelNotFoundError
        A repository could not be asked.
    """
    hub = hub or Hub(offline=offline)
    found = {}
    for repo_id in repos or default_repositories():
        repository = CacheRepository(repo_id, hub)
        registry = open_registry(repository, release, compiler)
        reader = Reader(repository, registry)
        found[repo_id] = tuple(reader.read(registry.usable())), tuple(reader.skipped)
    return found


def judge_registry(
    repository: Repository,
    registry: Registry,
    name: str,
    question: Question,
    hub: Hub | None = None,
) -> SourceOutcome:
    """What one repository or folder has; ``hub`` is where a model's task may be asked for.

    Raises
    ------
    NeuronArtifactsError
        It cannot be read.
    """
    reader = Reader(repository, registry)
    subject, request = question.subject, question.request
    usable = reader.read_for(subject, registry.usable())
    subject = _settle_task(hub, subject, usable)
    judgement = judge(request, subject, usable)
    if judgement.status != "hit":
        other = reader.read_for(subject, registry.other())
        subject = _settle_task(hub, subject, other)
        judgement = judge(request, subject, usable, other)
    foreign = [Skipped(path, "no entry can lie there") for path in registry.foreign]
    return SourceOutcome(
        source=name, status=judgement.status,
        rows=_prove(repository, judgement.rows) if question.prove else judgement.rows,
        nearest=judgement.nearest, release=registry.release, compilers=registry.compilers,
        commit=repository.commit, age=repository.age, skipped=(*foreign, *reader.skipped),
    )  # fmt: skip


def _settle_task(hub: Hub | None, subject: Subject, entries: Sequence[Entry]) -> Subject:
    """Ask the hub what the model is for, where its config leaves open which entries count."""
    mine = [entry for entry in entries if is_same_model(subject, entry)]
    if hub is None or subject.model_id is None or not is_task_open(subject, mine):
        return subject
    return replace(subject, pipeline_tag=find_pipeline_tag(hub, subject.model_id))


def _prove(repository: Repository, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Check that the folders of traced rows exist; a decoder's can only be known by tracing it."""
    there = repository.exist(sorted({_folder(row) for row in rows if row.module}))
    if there is None:
        return rows
    return tuple(replace(r, proved=_folder(r) in there) if r.module else r for r in rows)


def _folder(row: Row) -> str:
    return f"{COMPILER_PREFIX}{row.compiler}/{row.module}"
