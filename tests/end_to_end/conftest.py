"""The sample model, compiled once and served once, by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import TOOL
from tests.models import ADDER

SLOTS = 4
CONFIGURATION = {
    "batch_size": SLOTS,
    "seq_len": 512,
    "context_encoding_buckets": "32,64,128",
    "token_generation_buckets": "128,512",
    "max_context_length": 448,
}


@dataclass(frozen=True)
class Served:
    """A running server: its address, what it announced, and its process."""

    url: str
    ready: dict[str, Any]
    process: subprocess.Popen[str]


@contextmanager
def serving(*arguments: object, **environ: str) -> Iterator[Served]:
    """``neuron-artifacts serve`` on a free port, stopped by SIGTERM at the end."""
    process = subprocess.Popen(
        [*TOOL, "serve", "--port", "0", "--json", *map(str, arguments)],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = _read_announcement(process)
        yield Served(ready["url"], ready, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _read_announcement(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            announcement: dict[str, Any] = json.loads(text)
            return announcement
    assert process.stderr
    raise AssertionError(f"the server ended: {process.stderr.read()}")


@pytest.fixture(scope="session")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact directory."""
    import neuron_artifacts

    store = tmp_path_factory.mktemp("adder")
    return neuron_artifacts.compile(ADDER, store=store, **CONFIGURATION).path


@pytest.fixture(scope="session")
def server(adder: Path) -> Iterator[Served]:
    with serving("--artifacts", adder, "--served-model-name", "adder") as served:
        yield served


if sys.platform != "linux":
    collect_ignore_glob = ["*"]
