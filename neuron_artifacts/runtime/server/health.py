"""What probes, scrapers and autoscalers ask."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from neuron_artifacts.runtime.server.responses import (
    HealthResponse,
    LoadResponse,
    VersionResponse,
)
from neuron_artifacts.runtime.server.state import get_state

router = APIRouter()


@router.get("/health")
@router.get("/ping")
@router.post("/ping")
async def health(request: Request, response: Response) -> HealthResponse:
    """200 when requests are taken, 503 while loading, draining or failed."""
    phase = get_state(request).phase
    response.status_code = 200 if phase == "ready" else 503
    return HealthResponse(status=phase)


@router.get("/version")
async def version(request: Request) -> VersionResponse:
    return VersionResponse(version=get_state(request).version)


@router.get("/load")
async def load(request: Request) -> LoadResponse:
    return LoadResponse(server_load=get_state(request).readiness.in_flight)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    body, media_type = get_state(request).metrics.render()
    return Response(body, media_type=media_type)
