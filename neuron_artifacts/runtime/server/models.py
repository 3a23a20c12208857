"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from neuron_artifacts.runtime.server.responses import ModelCard, ModelList
from neuron_artifacts.runtime.server.state import ServerState, get_state

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """One entry for each name the model is served under."""
    state = get_state(request)
    return ModelList(data=[_card(state, name) for name in state.model_names])


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> ModelCard:
    state = get_state(request)
    return _card(state, state.check_model(name))


def _card(state: ServerState, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=state.created,
        root=state.model_root,
        parent=None if name == state.model else state.model,
        max_model_len=state.max_model_len,
    )
