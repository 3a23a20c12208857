"""Every failure as OpenAI's error object: ``{"error": {message, type, param, code}}``.

Codes are the ones clients already branch on (``context_length_exceeded``, ``model_not_found``,
``invalid_api_key``, ``rate_limit_exceeded``).
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from neuron_artifacts.errors import (
    ContextLengthError,
    EngineBusyError,
    NeuronArtifactsError,
    RequestError,
)

logger = logging.getLogger("neuron_artifacts.server")

INVALID = "invalid_request_error"
SERVER = "server_error"


@dataclass
class ApiError(Exception):
    """A failure with its HTTP status; ``headers`` go out with it."""

    status: int
    message: str
    type: str = INVALID
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message, "type": self.type, "param": self.param, "code": self.code,
            }
        }  # fmt: skip

    def response(self) -> Response:
        content = json.dumps(self.body()).encode()
        return Response(content, self.status, dict(self.headers), "application/json")


class ClientGoneError(Exception):
    """The client closed the connection; nobody is left to answer."""


def as_api_error(error: BaseException) -> ApiError:
    """Translate any exception; what is not ours becomes a 500 that says nothing of the inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineBusyError):
        return _busy(error)
    if isinstance(error, RequestError):
        code = "context_length_exceeded" if isinstance(error, ContextLengthError) else None
        return ApiError(400, _full(error), param=error.param, code=code)
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return _http(error)
    return ApiError(500, "the server failed on this request", SERVER, code="internal_error")


def unavailable(message: str, *, retry_after: int = 5) -> ApiError:
    """503: loading, draining or failed."""
    headers = {"Retry-After": str(retry_after)}
    return ApiError(503, message, SERVER, code="service_unavailable", headers=headers)


def log_failure(error: BaseException, method: str, path: str) -> None:
    """One line for whoever runs the server; the traceback at debug level."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    logger.error("%s %s failed: %s: %s%s", method, path, type(error).__name__, error, place)
    logger.debug("traceback", exc_info=error)


async def handle(_request: Request, error: Exception) -> Response:
    """Exception handler for FastAPI."""
    return as_api_error(error).response()


def _busy(error: EngineBusyError) -> ApiError:
    if error.draining:
        return unavailable(error.message, retry_after=error.retry_after)
    headers = {"Retry-After": str(error.retry_after)}
    return ApiError(429, error.message, "rate_limit_error", None, "rate_limit_exceeded", headers)


def _full(error: NeuronArtifactsError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Unions name their branches in the path; only the field and its indexes tell a caller anything.
    field_name = str(first["loc"][0]) if first["loc"] else None
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{field_name}: {message}" if field_name else message, param=field_name)


def _http(error: HTTPException) -> ApiError:
    known = {
        404: ("no such route", "not_found"),
        405: ("this route does not take this method", "method_not_allowed"),
    }
    message, code = known.get(error.status_code, (str(error.detail), None))
    kind = INVALID if error.status_code < 500 else SERVER
    return ApiError(error.status_code, message, kind, code=code, headers=error.headers or {})
