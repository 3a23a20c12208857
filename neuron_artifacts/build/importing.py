"""An export from elsewhere, and the policy about it."""

from __future__ import annotations

from pathlib import Path

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.errors import UntrustedError
from neuron_artifacts.events import Observer, ignore
from neuron_artifacts.remote import Bundle, import_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.trust.policy import load_policy, require_trust


def import_trusted(source: Path, store: LocalStore, *, observe: Observer = ignore) -> Bundle:
    """Import an artifact if the policy for the place it would get admits it.

    Raises
    ------
    UntrustedError
        Nobody the policy asks for has signed it; nothing of it shows.
    CorruptError, IncompleteError, IncompatibleError, UsageError, StoreError, ResourceError
        As :func:`~neuron_artifacts.remote.import_artifact`.
    """
    policy = load_policy()

    def approve(directory: Path) -> None:
        place = store.path(read_manifest(directory).key)
        try:
            require_trust(directory, policy.required_at(place))
        except UntrustedError as error:
            said = error.message.replace(str(directory), str(source))
            raise UntrustedError(said, hint=error.hint) from None

    return import_artifact(source, store, approve=approve, observe=observe)
