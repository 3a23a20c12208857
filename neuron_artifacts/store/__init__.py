"""Where artifacts live and how they get there."""

from neuron_artifacts.store.leases import STORE_NAME
from neuron_artifacts.store.local import LocalStore
from neuron_artifacts.store.staging import Staging

__all__ = ["STORE_NAME", "LocalStore", "Staging"]
