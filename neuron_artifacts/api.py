"""The same few verbs as the command line, for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuron_artifacts.build import Outcome, compile_artifact
from neuron_artifacts.events import Observer, ignore
from neuron_artifacts.runtime.llm import LLM as _LLM
from neuron_artifacts.runtime.loader import find_artifacts, load_artifact
from neuron_artifacts.spec import resolve_spec


def compile(
    model: str | Path,
    *,
    config_file: str | Path | None = None,
    force: bool = False,
    skip_preflight: bool = False,
    observe: Observer = ignore,
    **options: Any,
) -> Outcome:
    """Give the artifact for ``model``; ``options`` are those of the command line, by name.

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
        {"model": str(model), **_plain(options)},
        config_file=Path(config_file) if config_file else None,
    )
    return compile_artifact(spec, observe=observe, force=force, skip_preflight=skip_preflight)


def load(
    directory: str | Path | None = None, *, verify: str = "full", threads: int | None = None
) -> _LLM:
    """Load an artifact directory (else ``NEURON_COMPILED_ARTIFACTS``) for generation.

    Never compiles. Use the result as a context manager, or call its ``close()``.
    """
    path = find_artifacts(Path(directory) if directory else None)
    loaded = load_artifact(
        path, verify="quick" if verify == "quick" else "full", threads=threads, warm_up=False
    )
    return _LLM(loaded.runner, loaded.tokenizer)


class LLM(_LLM):
    """vLLM's offline front: compiles ``model`` if no artifact of it exists, then loads it.

    Takes vLLM's spellings (``tensor_parallel_size``, ``max_num_seqs``, ``max_model_len``,
    ``dtype``) as well as NxD Inference's. ``device`` and ``block_size``, which vLLM's Neuron
    examples pass, have no counterpart here and are accepted for them alone.
    """

    def __init__(
        self, model: str | Path, *, threads: int | None = None, device: str | None = None,
        block_size: int | None = None, **options: Any,
    ) -> None:  # fmt: skip
        del device, block_size
        outcome = compile(model, **options)
        loaded = load_artifact(outcome.path, threads=threads, warm_up=False)
        super().__init__(loaded.runner, loaded.tokenizer)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items()
    }
