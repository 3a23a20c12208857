"""What the routes share: the engine, what it serves, the limits, and whether it is ready."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import Request

from neuron_artifacts._version import __version__
from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.runtime.params import MAX_N
from neuron_artifacts.runtime.server.auth import KeyRing
from neuron_artifacts.runtime.server.errors import ApiError, unavailable

if TYPE_CHECKING:
    from neuron_artifacts.runtime.engine import Engine
    from neuron_artifacts.runtime.loader import LoadedArtifact
    from neuron_artifacts.runtime.server.generation import Generation
    from neuron_artifacts.runtime.server.metrics import Metrics
    from neuron_artifacts.runtime.tokenizer import Tokenizer

Phase = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True)
class Limits:
    """What one HTTP request may ask for."""

    max_body_bytes: int = 8 << 20
    body_seconds: float = 60.0
    max_n: int = MAX_N
    max_sequences: int = 1024


@dataclass
class Readiness:
    """Where the server is in its life, and the requests it is working on.

    Touched by the event loop's thread alone.
    """

    phase: Literal["loading", "ready", "draining"] = "loading"
    in_flight: int = 0
    generations: set[Generation] = field(default_factory=set)

    def cut_off(self, error: NeuronArtifactsError | ApiError) -> int:
        """End every open generation with ``error``; returns how many there were."""
        open_now = tuple(self.generations)
        for generation in open_now:
            generation.fail(error)
        return len(open_now)


@dataclass(frozen=True)
class ServerState:
    """All an app needs. ``model_names[0]`` is the model's id, the others are accepted too.

    ``defaults`` are the sampling values of the model's generation configuration, used where a
    request leaves them out; ``fingerprint`` goes out as ``system_fingerprint``.
    """

    engine: Engine
    tokenizer: Tokenizer
    model_names: tuple[str, ...]
    model_root: str
    max_model_len: int
    vocab_size: int
    metrics: Metrics
    defaults: Mapping[str, Any] = field(default_factory=dict)
    api_keys: tuple[str, ...] = ()
    fingerprint: str | None = None
    version: str = __version__
    created: int = field(default_factory=lambda: int(time.time()))
    limits: Limits = field(default_factory=Limits)
    readiness: Readiness = field(default_factory=Readiness)
    tokenizing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "tokenize"), repr=False
    )
    keys: KeyRing = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", KeyRing(self.api_keys))

    @property
    def model(self) -> str:
        return self.model_names[0]

    @property
    def phase(self) -> Phase:
        return "failed" if self.engine.failed is not None else self.readiness.phase

    def check_accepting(self) -> None:
        """Raise 503 unless new work may begin."""
        reasons = {
            "loading": "the model is still being loaded",
            "draining": "the server is shutting down",
            "failed": "the engine has failed",
        }
        if self.phase in reasons:
            raise unavailable(reasons[self.phase])

    def check_model(self, name: str | None) -> str:
        """The name to answer under; no name means the first one."""
        if name is None:
            return self.model
        if name not in self.model_names:
            raise ApiError(
                404, f"the model {name!r} is not served here; "
                f"{' and '.join(self.model_names)} is", param="model", code="model_not_found",
            )  # fmt: skip
        return name


def get_state(request: Request) -> ServerState:
    """The state of the app that ``request`` came to."""
    state: ServerState = request.app.state.server
    return state


def make_state(
    loaded: LoadedArtifact,
    *,
    model_names: tuple[str, ...] = (),
    api_keys: tuple[str, ...] = (),
    max_waiting: int = 1024,
) -> ServerState:
    """The state to serve a loaded artifact; the name defaults to the model's own.

    Raises
    ------
    ServeError
        The model's generation configuration has unusable sampling values.
    """
    from neuron_artifacts.runtime.defaults import read_defaults
    from neuron_artifacts.runtime.engine import Engine
    from neuron_artifacts.runtime.server.metrics import Metrics

    names = model_names or (str(loaded.manifest.serve["served_model_name"]),)
    metrics = Metrics(names[0], seconds=loaded.seconds)
    engine = Engine(
        loaded.runner, loaded.tokenizer, max_waiting=max_waiting, on_step=metrics.record_step
    )
    metrics.observe_engine(engine.stats, loaded.runner)
    return ServerState(
        engine=engine,
        tokenizer=loaded.tokenizer,
        model_names=names,
        model_root=str(loaded.directory),
        max_model_len=loaded.max_model_len,
        vocab_size=loaded.runner.vocab_size,
        metrics=metrics,
        defaults=read_defaults(loaded.generation_config),
        api_keys=api_keys,
        fingerprint=f"na-{loaded.manifest.key[:16]}",
    )
