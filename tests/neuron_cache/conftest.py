"""A hub of its own for each test, and nothing kept from the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, utils

from neuron_artifacts.neuron_cache import Hub, client
from tests.neuron_cache.cache_hub import CacheHub


@pytest.fixture
def hub() -> Iterator[CacheHub]:
    with CacheHub() as served:
        yield served


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where answers are kept."""
    return tmp_path / "kept"


@pytest.fixture
def connect(hub: CacheHub, kept: Path) -> Callable[[], Hub]:
    return lambda: Hub(hub.url, cache_dir=kept)


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client, "_PAUSES", (0.01, 0.01))
    monkeypatch.setenv("NEURON_ARTIFACTS_CACHE", str(tmp_path / "ours"))
    reset: Callable[[], None] = getattr(utils, "reset_sessions", lambda: None)
    reset()  # before huggingface_hub 1.0 a session remembers whether it is offline
