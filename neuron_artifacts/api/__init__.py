"""The same few verbs as the command line, for Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from neuron_artifacts.artifact import Depth
from neuron_artifacts.build import Outcome, compile_artifact
from neuron_artifacts.errors import UsageError
from neuron_artifacts.events import Observer, ignore
from neuron_artifacts.spec import resolve_spec

if TYPE_CHECKING:
    from neuron_artifacts.runtime.llm import LLM


def compile(
    model: str | Path | None = None,
    *,
    config_file: str | Path | None = None,
    force: bool = False,
    skip_preflight: bool = False,
    observe: Observer = ignore,
    **options: Any,
) -> Outcome:
    """Give the artifact for ``model``; ``options`` are those of the command line, by name.

    Without ``model``, ``config_file`` names it.

    Returns
    -------
    Outcome
        ``.path`` is the directory to :func:`load` or serve; ``.decision.action`` is the verdict.

    Raises
    ------
    NeuronArtifactsError
        See :mod:`neuron_artifacts.errors`.
    """
    spec = resolve_spec(
        _plain({"model": model, **options}),
        config_file=Path(config_file) if config_file else None,
    )
    return compile_artifact(spec, observe=observe, force=force, skip_preflight=skip_preflight)


def load(
    directory: str | Path | None = None, *, verify: str = "full", threads: int | None = None
) -> LLM:
    """Load an artifact directory (else ``NEURON_COMPILED_ARTIFACTS``) for generation.

    Never compiles. ``verify`` is ``full``, ``quick`` or ``off``, as of the command line. Use the
    result as a context manager, or call its ``close()``.
    """
    from neuron_artifacts.runtime.defaults import read_defaults
    from neuron_artifacts.runtime.llm import LLM
    from neuron_artifacts.runtime.loader import find_artifacts, load_artifact
    from neuron_artifacts.runtime.params import SamplingParams

    if verify not in get_args(Depth):
        raise UsageError(f"verify is one of {', '.join(get_args(Depth))}, not {verify!r}")
    path = find_artifacts(Path(directory) if directory else None)
    loaded = load_artifact(path, verify=cast(Depth, verify), threads=threads, warm_up=False)
    defaults = SamplingParams(**read_defaults(loaded.generation_config))
    return LLM(loaded.runner, loaded.tokenizer, default_sampling_params=defaults)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items()
    }
