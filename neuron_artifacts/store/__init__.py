"""Where artifacts live and how they get there."""

from neuron_artifacts.store.local import STORE_NAME, LocalStore
from neuron_artifacts.store.staging import Staging

__all__ = ["STORE_NAME", "LocalStore", "Staging"]
