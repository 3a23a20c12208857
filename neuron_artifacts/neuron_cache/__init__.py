"""Reader of Neuron cache repositories on a Hugging Face hub, as optimum-neuron fills them."""

from neuron_artifacts.neuron_cache.client import CacheRepository, Hub
from neuron_artifacts.neuron_cache.gate import Admission, may_compile
from neuron_artifacts.neuron_cache.inquiry import CacheAnswer, CacheOptions, Inquiry, request_of
from neuron_artifacts.neuron_cache.lookup import (
    PUBLIC_REPOSITORY,
    default_repositories,
    list_entries,
    look_up,
)
from neuron_artifacts.neuron_cache.match import CacheRequest, Difference
from neuron_artifacts.neuron_cache.outcome import Near, Nearest, Row, Skipped, SourceOutcome
from neuron_artifacts.neuron_cache.preexported import PreExported, VersionLock
from neuron_artifacts.neuron_cache.registry import Entry
from neuron_artifacts.neuron_cache.subject import (
    ModelConfig,
    find_pre_exported,
    open_model,
    read_config,
)

__all__ = [
    "PUBLIC_REPOSITORY", "Admission", "CacheAnswer", "CacheOptions", "CacheRepository",
    "CacheRequest", "Difference", "Entry", "Hub", "Inquiry", "ModelConfig", "Near", "Nearest",
    "PreExported", "Row", "Skipped", "SourceOutcome", "VersionLock", "default_repositories",
    "find_pre_exported", "list_entries", "look_up", "may_compile", "open_model", "read_config",
    "request_of",
]  # fmt: skip
