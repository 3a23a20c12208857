"""Verification with the question only a backend can answer: can this machine run it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import Depth, Manifest, Verdict, verify_artifact
from neuron_artifacts.backends.registry import backend_of_artifact
from neuron_artifacts.errors import IncompatibleError


def check_artifact(
    directory: Path,
    depth: Depth = "quick",
    *,
    digests: DigestCache | None = None,
    host: bool = True,
    on_bytes: Callable[[int], None] | None = None,
) -> Verdict:
    """:func:`verify_artifact`, and with ``host`` whether this machine can run what it finds."""
    return verify_artifact(
        directory, depth, digests=digests, on_bytes=on_bytes,
        check_host=host_reasons if host else None,
    )  # fmt: skip


def host_reasons(manifest: Manifest) -> list[str]:
    """What keeps this machine from running an artifact, one line each."""
    try:
        return backend_of_artifact(manifest.backend).check_host(manifest)
    except IncompatibleError as error:
        return [error.message]
