"""Models: a folder or a hub repository, read as files with digests."""

from neuron_artifacts.model.resolve import resolve_model
from neuron_artifacts.model.snapshot import ModelFile, ModelSnapshot, read_folder

__all__ = ["ModelFile", "ModelSnapshot", "read_folder", "resolve_model"]
