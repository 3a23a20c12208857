"""Builds that are known to fail: refused before they cost anything, remembered when they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.errors import CompileError, RefusedError
from neuron_artifacts.plan import Decision
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.failures import forget_failure, recall_failure, remember_failure


def refuse_known_failure(resolved: ResolvedSpec, decision: Decision, store: LocalStore) -> None:
    """Refuse to compile what has failed for good before.

    Raises
    ------
    RefusedError
        With the cause and the day.
    """
    failure = recall_failure(store.root, resolved.key.graphs_digest)
    if failure is None or not decision.to_compile:
        return
    day = datetime.fromtimestamp(failure.created, timezone.utc).date()
    raise RefusedError(
        f"the same build failed on {day} ({failure.cause.replace('_', ' ')}): {failure.message}",
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
