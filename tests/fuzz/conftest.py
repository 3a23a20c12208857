"""No example may hang or fill the memory: a limit on both around every test of this folder."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.inputs import EXAMPLES
from tests.runtime.server.harness import RunningServer, eventually, running, toy_state
from tests.runtime.toy_tokenizers import CHAT_TEMPLATE

GROWTH = 3 << 30
"""Bytes of address space that a test may map beyond what the process has."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(60 + 2 * EXAMPLES))


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + GROWTH, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="package")
def toy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running(toy_state(tmp_path_factory.mktemp("toy"))) as server:
        server.state.tokenizer.chat_templates["default"] = CHAT_TEMPLATE
        yield server


@pytest.fixture
def server(toy_server: RunningServer) -> Iterator[RunningServer]:
    """Afterwards it answers, and holds no slot."""
    yield toy_server
    with toy_server.client() as client:
        response = client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 2})
    assert response.status_code == 200, response.text
    eventually(lambda: toy_server.running() == toy_server.waiting() == 0)
