"""Every test starts from a clean environment and a cache of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

PREFIXES = ("NEURON_", "HF_", "HUGGING", "VLLM_", "XDG_", "TRANSFORMERS_")
NAMES = ("CC", "CFLAGS", "NO_COLOR", "FORCE_COLOR")


# As in the background of a shell script, or under nohup: processes that tests interrupt would
# inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiler probes and digests, shared by the session: they are keyed by content."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name in NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("NEURON_ARTIFACTS_CACHE", str(session_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
