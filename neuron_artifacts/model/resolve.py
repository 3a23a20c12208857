"""From what a user typed to a model: a folder where there is one, else a hub id."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from neuron_artifacts.errors import ModelNotFoundError, UsageError
from neuron_artifacts.model.snapshot import ModelSnapshot, lookalike, read_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve_model(
    model: str,
    *,
    revision: str | None = None,
    weights: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> ModelSnapshot:
    """Read the model named ``model``.

    With ``weights=False`` a hub model's weight files are described from the hub's metadata and
    their headers, not downloaded. ``progress`` is told a weight file's name, the bytes done and
    the bytes in all, while it is downloaded.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, HubError
        It does not exist, is incomplete, or cannot be reached.
    """
    path, exists = _find(model)
    if exists and path.is_dir():
        if revision:
            raise UsageError(f"--revision applies to a hub id, and {model} is a folder")
        return read_folder(path)
    if exists:
        raise ModelNotFoundError(
            f"{model} is a file, and a model is a folder",
            hint=lookalike(path.name) or f"name the folder that has its config.json: {path.parent}",
        )
    if not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
        raise ModelNotFoundError(
            f"{model} is neither a folder nor a hub id",
            hint="name a model folder or a hub id, e.g. org/name",
        )
    from neuron_artifacts.model.hub import describe_repository, download_repository

    if weights:
        return download_repository(model, revision, progress=progress)
    return describe_repository(model, revision)


def _find(model: str) -> tuple[Path, bool]:
    try:
        path = Path(model).expanduser()
        return path, bool(model) and path.exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user, a NUL
        return Path(), False
