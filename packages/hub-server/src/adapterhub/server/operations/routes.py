"""Health and metrics over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from adapterhub.server.__about__ import __version__
from adapterhub.server.dependencies import StorageOf
from adapterhub.server.operations.metrics import exposition
from adapterhub.server.storage.tables import hub

__all__ = ["router"]

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Whether the process answers")
async def healthz() -> dict[str, str]:
    """Alive, whatever its stores do."""
    return {"status": "ok", "version": __version__}


@router.get(
    "/readyz", summary="Whether the database and the blob store answer", responses={503: {"description": "Not ready"}}
)
def readyz(request: Request, storage: StorageOf) -> Response:
    """Ready to take requests. Load balancers should ask this one."""
    failed: dict[str, str] = {}
    try:
        with storage.database.read() as connection:
            connection.execute(select(hub.c.number).where(hub.c.key == "serial")).scalar_one()
    except Exception as error:  # noqa: BLE001 - whatever it is, the database is not ready
        failed["database"] = type(error).__name__
    try:
        storage.blobs.size("sha256:" + "0" * 64)
    except Exception as error:  # noqa: BLE001 - whatever it is, the blob store is not ready
        failed["blobs"] = type(error).__name__
    if getattr(request.app.state, "stopping", False):
        failed["process"] = "stopping"
    return JSONResponse(
        {"status": "unavailable", "failed": failed} if failed else {"status": "ready"}, 503 if failed else 200
    )


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
def metrics() -> Response:
    """The counters in Prometheus' text format."""
    body, kind = exposition()
    return Response(body, media_type=kind)
