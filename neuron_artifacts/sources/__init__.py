"""Everywhere that compiled graphs may lie, behind one question."""

from neuron_artifacts.sources.merge import (
    LookupResult,
    choose_sources,
    list_everywhere,
    look_up_everywhere,
)
from neuron_artifacts.sources.source import Lookup, Source, SourceListing, SourceReport

__all__ = [
    "Lookup", "LookupResult", "Source", "SourceListing", "SourceReport", "choose_sources",
    "list_everywhere", "look_up_everywhere",
]  # fmt: skip
