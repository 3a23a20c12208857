"""From what a user typed to a model: a folder where there is one, else a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from neuron_artifacts.errors import ModelNotFoundError, UsageError
from neuron_artifacts.model.snapshot import ModelSnapshot, read_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve_model(
    model: str, *, revision: str | None = None, weights: bool = True
) -> ModelSnapshot:
    """Read the model named ``model``.

    With ``weights=False`` a hub model's weight files are described from the hub's metadata and
    their headers, not downloaded.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, HubError
        It does not exist, is incomplete, or cannot be reached.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision:
            raise UsageError(f"--revision applies to a hub id, and {model} is a folder")
        return read_folder(path)
    if path.exists() or not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
        raise ModelNotFoundError(
            f"{model} is neither a folder nor a hub id",
            hint="name a model folder or a hub id, e.g. org/name",
        )
    from neuron_artifacts.model.hub import describe_repository, download_repository

    return download_repository(model, revision) if weights else describe_repository(model, revision)
