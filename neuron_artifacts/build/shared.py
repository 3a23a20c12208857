"""A remote store around a build: asked before, given the result after, and never in the way.

Its trouble is told and costs a compile at most. Only what the policy does not trust is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuron_artifacts.errors import MissError, NeuronArtifactsError, UntrustedError
from neuron_artifacts.events import Note, Observer, ignore
from neuron_artifacts.remote import Pulled, RemoteStore, pull_artifact, push_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.trust.policy import load_policy, require_trust
from neuron_artifacts.trust.statement import join_signatures


@dataclass(frozen=True)
class Share:
    """A remote store to read through, by the name it was asked for; ``push`` also writes back.

    ``names`` is all that a policy may call it.
    """

    name: str
    remote: RemoteStore
    push: bool = False
    names: tuple[str, ...] = ()


def pull_trusted(
    share: Share,
    key: str,
    store: LocalStore,
    *,
    destination: Path | None = None,
    observe: Observer = ignore,
) -> Pulled:
    """Pull an artifact that the policy trusts; of another nothing but the manifest is read.

    Raises
    ------
    UntrustedError
        Nobody the policy asks for has signed it.
    MissError, CorruptError, RemoteError, ResourceError, StoreError
        As :func:`~neuron_artifacts.remote.pull_artifact`.
    """
    destination = destination or store.path(key)
    required = load_policy().required_at(destination, share.name, *share.names, share.remote.url)

    def approve(directory: Path) -> None:
        try:
            require_trust(directory, required)
        except UntrustedError as error:
            here = f"{key} of {share.name}"
            raise UntrustedError(
                error.message.replace(str(directory), here), hint=error.hint
            ) from None

    return pull_artifact(
        share.remote, key, store, destination=destination, approve=approve,
        join=join_signatures, observe=observe,
    )  # fmt: skip


def fetch_instead(
    share: Share, key: str, store: LocalStore, destination: Path, observe: Observer
) -> bool:
    """Whether the remote store had the artifact, so that nothing needs to be compiled."""
    try:
        pull_trusted(share, key, store, destination=destination, observe=observe)
    except UntrustedError:
        raise
    except MissError:
        observe(Note(f"{share.name} does not have it"))
        return False
    except NeuronArtifactsError as error:
        observe(Note(f"{share.name}: {error.message}; building it here instead", is_trouble=True))
        return False
    observe(Note(f"fetched from {share.name}"))
    return True


def give_back(share: Share, directory: Path, observe: Observer) -> None:
    """Put a result into the remote store, where that was asked for."""
    if not share.push:
        return
    try:
        pushed = push_artifact(share.remote, directory, observe=observe)
    except NeuronArtifactsError as error:
        observe(Note(f"not pushed to {share.name}: {error.message}", is_trouble=True))
        return
    verb = "pushed to" if pushed.published else "was already at"
    observe(Note(f"{verb} {share.name}"))
