"""The ASGI application: routes, error handlers, and the gate around them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.runtime.server import chat, completions, health, models, tokenize
from neuron_artifacts.runtime.server.errors import ApiError, handle
from neuron_artifacts.runtime.server.gate import Gate
from neuron_artifacts.runtime.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from neuron_artifacts.runtime.server.state import ServerState

_BODIES: dict[str, tuple[type[BaseModel], ...]] = {
    "/v1/completions": (CompletionRequest,),
    "/v1/chat/completions": (ChatRequest,),
    "/tokenize": (TokenizeTextRequest, TokenizeChatRequest),
    "/detokenize": (DetokenizeRequest,),
}


def create_app(state: ServerState) -> FastAPI:
    """The application over ``state``; the engine is the caller's to start and close.

    The interactive pages at ``/docs`` load scripts from another host, so there are none;
    ``/openapi.json`` describes the routes. No CORS headers are sent.
    """
    app = FastAPI(
        title="neuron-artifacts", version=state.version, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.server = state
    for module in (completions, chat, tokenize, models, health):
        app.include_router(module.router)
    for kind in (ApiError, NeuronArtifactsError, ValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
    app.add_middleware(Gate, state=state)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the bodies that the routes read themselves."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    template = "#/components/schemas/{model}"
    wanted: list[tuple[type[BaseModel], Literal["validation", "serialization"]]]
    wanted = [(model, "validation") for bodies in _BODIES.values() for model in bodies]
    references, schemas = models_json_schema(wanted, ref_template=template)
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for path, bodies in _BODIES.items():
        options = [references[model, "validation"] for model in bodies]
        schema = options[0] if len(options) == 1 else {"anyOf": options}
        content = {"application/json": {"schema": schema}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    app.openapi_schema = document
    return document
