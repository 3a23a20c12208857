"""API keys guard every route but the two that probes call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from neuron_artifacts.runtime.server.auth import OPEN_ROUTES, KeyRing
from tests.runtime.server.harness import RunningServer, running, toy_state

KEYS = ("first-key", "clé-2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running(toy_state(tmp_path_factory.mktemp("toy"), api_keys=KEYS)) as started:
        yield started


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {b"Authorization": b"Bearer " + key.encode()}}


def test_every_route(server: RunningServer) -> None:
    """Each route the application has, so that a new one is guarded unless it is listed."""
    document = httpx.get(server.url + "/openapi.json", **bearer(KEYS[0])).json()
    routes = {(method, path) for path, ways in document["paths"].items() for method in ways}
    unlisted = ("/openapi.json", "/docs", "/redoc", "/nowhere", "//health", "/health/", "/HEALTH")
    routes |= {("get", path) for path in unlisted} | {("post", "/v1/nowhere")}
    assert {"/health", "/ping"} == OPEN_ROUTES
    assert {path for _, path in routes} > OPEN_ROUTES | {"/metrics", "/load", "/version"}
    for method, path in routes:
        response = httpx.request(method, server.url + path.replace("{name}", "toy"))
        expected = 200 if path in OPEN_ROUTES else 401
        assert response.status_code == expected, (method, path)
        if expected == 401:
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["x-request-id"]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_admits(server: RunningServer, key: str) -> None:
    assert httpx.get(server.url + "/v1/models", **bearer(key)).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        b"", b"Bearer", b"Bearer wrong", b"Basic first-key", b"first-key",
        b"Bearer first-ke", b"Bearer first-keyy", b"Bearer FIRST-KEY", b"Bearer \xff\xfe",
        b"Bearer first-key,cle-2", b"Bearer " + b"x" * 10_000,
    ],
    ids=lambda header: repr(header[:30]),
)  # fmt: skip
def test_others_do_not(server: RunningServer, header: bytes) -> None:
    response = httpx.get(server.url + "/v1/models", headers={b"Authorization": header})
    assert response.status_code == 401
    assert "first-key" not in response.text


def test_the_scheme_is_case_insensitive(server: RunningServer) -> None:
    headers = {"Authorization": "bearer first-key"}
    assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 200


def test_a_body_is_not_read_without_a_key(server: RunningServer) -> None:
    response = httpx.post(server.url + "/v1/completions", content=b"not json")
    assert response.status_code == 401
    assert httpx.get(server.url + "/load", **bearer(KEYS[0])).json() == {"server_load": 0}


def test_openai_client(server: RunningServer) -> None:
    good = openai.OpenAI(base_url=server.url + "/v1", api_key=KEYS[0], max_retries=0)
    assert good.models.list().data[0].id == "toy"
    bad = openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        bad.models.list()


def test_no_keys_admit_everybody() -> None:
    assert KeyRing(()).admits("/v1/models", b"")
