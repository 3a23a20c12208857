"""Requests made from the server's own description."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import fuzz
from tests.runtime.server.harness import PATIENCE, RunningServer

schemathesis = pytest.importorskip("schemathesis", reason="it makes the requests")


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_requests_from_the_description(server: RunningServer, mode: str) -> None:
    """What fits the description, or misses it by a little, is answered or refused with a reason."""
    description = schemathesis.openapi.from_url(server.url + "/openapi.json")
    operations = [found.ok() for found in description.get_all_operations()]
    assert {"/v1/completions", "/v1/chat/completions"} <= {found.path for found in operations}
    kind = schemathesis.GenerationMode(mode)
    strategies = [
        found.as_strategy(generation_mode=kind)
        for found in operations
        if mode == "positive" or found.body
    ]

    @settings(parent=fuzz)
    @given(st.one_of(strategies))
    def ask(case: Any) -> None:
        response = case.call(timeout=PATIENCE)
        assert response.status_code < 500, response.text[:500]
        if response.status_code >= 400:
            assert response.json()["error"]["message"]

    ask()
