"""Builds that are known to fail: refused before they cost anything, remembered when they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.errors import CompileError, RefusedError
from neuron_artifacts.plan import Decision
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.failures import forget_failure, remember_failure


def refuse_known_failure(decision: Decision) -> None:
    """Refuse to compile what has failed for good before.

    Raises
    ------
    RefusedError
        With the cause and the day.
    """
    if decision.known_failure is None:
        return
    raise RefusedError(
        f"the same build {decision.known_failure}",
        hint="change the configuration or the toolchain, or try again with --retry",
    )


@contextmanager
def remembering_failure(resolved: ResolvedSpec, store: LocalStore) -> Iterator[None]:
    """Remember a failure that is permanent; forget it once the build has succeeded."""
    digest = resolved.key.graphs_digest
    try:
        yield
    except CompileError as error:
        remember_failure(
            store.root, digest, cause=error.cause, message=error.message, log=error.log
        )
        raise
    forget_failure(store.root, digest)
