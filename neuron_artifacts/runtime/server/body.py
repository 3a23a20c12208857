"""From the bytes of a request to a checked model, refusing early what cannot be one."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from neuron_artifacts.runtime.server.errors import ApiError, ClientGoneError
from neuron_artifacts.runtime.server.state import Limits, get_state

Model = TypeVar("Model", bound=BaseModel)


async def read_model(request: Request, model: type[Model]) -> Model:
    """The request's JSON as ``model``; see :func:`read_object` and :func:`check`."""
    return check(await read_object(request), model)


async def read_object(request: Request) -> dict[str, Any]:
    """The request's JSON object.

    Raises
    ------
    ApiError
        408, 413, 415, or 400 for what is not JSON (NaN, infinities, depth and lone surrogates
        included).
    """
    _check_media_type(request)
    data = parse_json(await _read(request, get_state(request).limits))
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return data


def check(data: dict[str, Any], model: type[Model]) -> Model:
    """``data`` as ``model``; a field that is wrong raises what becomes a 400 that names it."""
    return model.model_validate(data)


def parse_json(data: bytes) -> Any:
    """Strict JSON: bounded depth, no NaN, valid Unicode."""
    try:
        return from_json(data, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


def _check_media_type(request: Request) -> None:
    # A page in a browser may send other types across origins without asking first.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ApiError(415, "send the body as Content-Type: application/json")


async def _read(request: Request, limits: Limits) -> bytes:
    try:
        return await asyncio.wait_for(_collect(request, limits.max_body_bytes), limits.body_seconds)
    except asyncio.TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {limits.body_seconds:g} s",
            headers={"Connection": "close"},
        ) from None  # fmt: skip
    except ClientDisconnect:
        raise ClientGoneError from None


async def _collect(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _too_large(limit)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise _too_large(limit)
    return bytes(data)


def _too_large(limit: int) -> ApiError:
    # The rest of the body is not read, so the connection cannot be used again.
    return ApiError(413, f"the body is larger than {limit} bytes", headers={"Connection": "close"})
