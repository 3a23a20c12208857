"""What every request passes first: an id, the key, readiness; and the net under all routes."""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuron_artifacts.runtime.server.errors import (
    ApiError,
    ClientGoneError,
    as_api_error,
    log_failure,
)
from neuron_artifacts.runtime.server.state import ServerState

GENERATION_ROUTES = frozenset({"/v1/completions", "/v1/chat/completions"})
"""Refused while draining, counted by ``/load``."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Gate:
    """ASGI middleware around all routes.

    ``x-request-id`` is echoed, or made up where it is missing or unfit to be repeated. Routes
    find it in ``request.state.request_id``, and the time of arrival in ``request.state.arrived``.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = pick_request_id(headers.get("x-request-id"))
        scope.setdefault("state", {}).update(request_id=request_id, arrived=time.monotonic())
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self._check_key(scope["path"], headers)
            await self._pass(scope, receive, send_with_id)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - the net under all routes
            failure = as_api_error(error)
            if failure.status == 500:
                log_failure(error, scope["method"], scope["path"])
            if not started:
                await failure.response()(scope, receive, send_with_id)

    def _check_key(self, path: str, headers: Headers) -> None:
        if not self._state.keys.admits(path, headers.get("authorization", "").encode("latin-1")):
            raise ApiError(
                401, "a valid API key is needed: Authorization: Bearer <key>",
                code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in GENERATION_ROUTES or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._state.check_accepting()
        self._state.readiness.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.readiness.in_flight -= 1


def pick_request_id(offered: str | None) -> str:
    """The client's id if it is short and plain, else a fresh one."""
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex
