"""Artifacts a build takes files from: held like those that are served, while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neuron_artifacts.plan import Decision
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.leases import hold


def lenders(decision: Decision, store: LocalStore) -> tuple[Path, ...]:
    """The artifacts of the store that graphs or weights are taken from."""
    sources = [step.source for step in decision.graphs] + [step.source for step in decision.weights]
    inside = [path for path in sources if path and path.is_relative_to(store.root)]
    names = dict.fromkeys(path.relative_to(store.root).parts[0] for path in inside)
    return tuple(store.root / name for name in names)


@contextmanager
def holding_lenders(decision: Decision, store: LocalStore) -> Iterator[None]:
    """Keep what a build takes from others from being collected under its hands.

    What is collected before it can be held is compiled, or copied from the model, instead.
    """
    with ExitStack() as held:
        for path in lenders(decision, store):
            held.enter_context(hold(path))
        yield
