"""Artifact directories: their manifest, and whether it holds."""

from neuron_artifacts.artifact.manifest import (
    MANIFEST_NAME,
    PROVENANCE_NAME,
    SIDECARS,
    SIGNATURE_NAME,
    FileEntry,
    GraphEntry,
    Manifest,
    parse_manifest,
)
from neuron_artifacts.artifact.verify import Depth, Status, Verdict, read_manifest, verify_artifact

__all__ = [
    "MANIFEST_NAME",
    "PROVENANCE_NAME",
    "SIDECARS",
    "SIGNATURE_NAME",
    "Depth",
    "FileEntry",
    "GraphEntry",
    "Manifest",
    "Status",
    "Verdict",
    "parse_manifest",
    "read_manifest",
    "verify_artifact",
]
