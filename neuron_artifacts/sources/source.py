"""What a source of compiled graphs is, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from neuron_artifacts.events import Observer, ignore
from neuron_artifacts.neuron_cache import CacheOptions, Hub, Inquiry, request_of
from neuron_artifacts.neuron_cache.installed import find_installed, find_target
from neuron_artifacts.spec import CompileSpec

if TYPE_CHECKING:
    from neuron_artifacts.backends.base import ResolvedSpec

Kind = Literal["store", "neuron-cache", "vllm-neuron-cache", "remote", "hf"]
Status = Literal["hit", "near", "other-release", "miss", "unknown", "absent", "error"]
"""``unknown``: graphs are there, but only a trace can tell whether they are the ones asked for.
``absent``: there is no such place, or it was not asked, for the reason given."""


@dataclass(frozen=True)
class SourceReport:
    """What one source has for a request.

    ``configuration`` and ``saves`` are one line each: what is there, and what it would spare.
    ``usable`` says whether a hit counts: graphs of one backend are nothing to another. ``facts``
    are what a source says besides, ``detail`` is what they were made from.
    """

    source: str
    kind: Kind
    status: Status
    where: str
    reason: str
    rows: tuple[Mapping[str, Any], ...] = ()
    nearest: Mapping[str, Any] | None = None
    configuration: str | None = None
    saves: str | None = None
    usable: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    detail: Any = None

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "source": self.source, "kind": self.kind, "status": self.status,
            "where": self.where, "reason": self.reason, "rows": list(self.rows),
            "nearest": self.nearest, "saves": self.saves, "usable": self.usable, **self.facts,
        }  # fmt: skip


@dataclass(frozen=True)
class SourceListing:
    """All that one source holds, for people to choose from."""

    source: str
    kind: Kind
    status: Literal["listed", "absent", "error"]
    where: str
    reason: str
    rows: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "source": self.source, "kind": self.kind, "status": self.status,
            "where": self.where, "reason": self.reason, "rows": list(self.rows), **self.facts,
        }  # fmt: skip


class Lookup:
    """One request, and what several sources derive from it, each at most once."""

    def __init__(
        self,
        spec: CompileSpec,
        *,
        environ: Mapping[str, str],
        options: CacheOptions | None = None,
        offline: bool = False,
        observe: Observer = ignore,
    ) -> None:
        self.spec = spec
        self.environ = environ
        self.options = options or CacheOptions()
        self.offline = offline
        self.observe = observe

    @cached_property
    def resolved(self) -> ResolvedSpec:
        """The request with every default filled in; a hub model's weights stay there."""
        from neuron_artifacts.build import resolve_request

        return resolve_request(self.spec, environ=self.environ, observe=self.observe, weights=False)

    @cached_property
    def usable(self) -> CacheOptions:
        """The options, and where they do not say what counts as usable, what is installed here."""
        if self.options.release or self.options.compiler:
            return self.options
        found = find_installed(self.environ, python=self.spec.python)
        if found is None:
            return self.options
        return replace(self.options, release=found.release, compiler=found.compiler)

    @cached_property
    def inquiry(self) -> Inquiry:
        """The same request as Neuron cache entries describe it."""
        request = request_of(self.spec, host_target=find_target(self.environ))
        return Inquiry(
            self.spec.model, request, Hub(offline=self.offline),
            revision=self.spec.revision, options=self.usable,
        )  # fmt: skip


class Source(Protocol):
    """Somewhere compiled graphs may lie. ``distant`` sources are asked over a network."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def distant(self) -> bool: ...

    def look_up(self, lookup: Lookup) -> Sequence[SourceReport]:
        """What it has for a request.

        Raises
        ------
        NeuronArtifactsError
            It cannot be asked, or the request cannot be put to it.
        """
        ...

    def list_all(self, *, offline: bool) -> Sequence[SourceListing]:
        """All it holds. Raises like :meth:`look_up`."""
        ...
