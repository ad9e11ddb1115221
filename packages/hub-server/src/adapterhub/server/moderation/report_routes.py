"""Reports by readers, and what the numbers of the weights look like, over HTTP; and the page with the form."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, select

from adapterhub.server.dependencies import Bearer, StorageOf, ViewerOf
from adapterhub.server.moderation import reports
from adapterhub.server.moderation.weights import WeightQueue, weights_of
from adapterhub.server.operations.rates import Buckets
from adapterhub.server.operations.requests import client_address
from adapterhub.server.storage.tables import version_files
from adapterhub.server.web.forms import FORM_HEADERS, same_site
from adapterhub.server.web.routes import PageRoute, site_of
from adapterhub.server.web.templating import render
from adapterhub.spec.errors import QuotaExceededError

__all__ = ["install", "page_router", "router"]

router = APIRouter(prefix="/v1", tags=["moderation"], dependencies=[Depends(Bearer)])
page_router = APIRouter(route_class=PageRoute, include_in_schema=False)

Namespace = Annotated[str, Path(max_length=64)]
Name = Annotated[str, Path(max_length=128)]
_VERSION = "/adapters/@{namespace}/{name}/versions/{version}"
_A_MINUTE = 5


class NewReport(BaseModel):
    """What is wrong."""

    model_config = ConfigDict(extra="forbid")
    kind: str = Field(max_length=16, description="broken, unsafe, rights, private, spam or other")
    text: str = Field(max_length=2000)


class Outcome(BaseModel):
    """What came of it."""

    model_config = ConfigDict(extra="forbid")
    outcome: str = Field("", max_length=500)


@router.post(_VERSION + "/reports", status_code=201, summary="Report that something is wrong with a version")
def report(
    request: Request,
    storage: StorageOf,
    viewer: ViewerOf,
    namespace: Namespace,
    name: Name,
    version: Name,
    body: NewReport,
) -> dict[str, Any]:
    """Anybody may. The organisation and the operators of the hub see it."""
    _count(request)
    return reports.report(storage, viewer, namespace, name, version, body.kind, body.text)


@router.get("/reports", summary="Reports nobody has closed yet")
def listed(
    storage: StorageOf, viewer: ViewerOf, all: Annotated[bool, Query(description="Closed ones too")] = False
) -> dict[str, Any]:
    """All of them for operators; with the scope `review`, those about the token's organisation."""
    with storage.database.read() as connection:
        return {"items": reports.list_reports(connection, viewer, everything=all)}


@router.post("/reports/{report_id}/close", summary="Close a report (operators)")
def close(
    storage: StorageOf, viewer: ViewerOf, report_id: Annotated[int, Path(ge=1, le=2**53)], body: Outcome
) -> dict[str, Any]:
    """With what came of it."""
    return reports.close(storage, viewer, report_id, body.outcome)


@router.get(_VERSION + "/weights", summary="What the numbers of the weights look like")
def weights(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name) -> dict[str, Any]:
    """How many are NaN or infinite, and for each tensor the largest magnitude and the root mean square of a sample."""
    with storage.database.read() as connection:
        return _weights(connection, reports.find_version(connection, viewer, namespace, name, version))


@page_router.get("/@{namespace}/{name}/versions/{version}/weights")
def weights_page(
    request: Request, storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name
) -> Response:
    """The same for people."""
    with storage.database.read() as connection:
        found = reports.find_version(connection, viewer, namespace, name, version)
        known = _weights(connection, found)
    twin = f"/v1/adapters/@{found.namespace}/{found.name}/versions/{found.version}/weights"
    body = render("weights.html", site_of(request), adapter=found, twin=twin, **known)
    return Response(body, 200, FORM_HEADERS, "text/html; charset=utf-8")


@page_router.get("/@{namespace}/{name}/versions/{version}/report")
def form(
    request: Request, storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name
) -> Response:
    """The form."""
    with storage.database.read() as connection:
        found = reports.find_version(connection, viewer, namespace, name, version)
    return _page(request, found)


@page_router.post("/@{namespace}/{name}/versions/{version}/report")
def sent(
    request: Request,
    storage: StorageOf,
    viewer: ViewerOf,
    namespace: Namespace,
    name: Name,
    version: Name,
    kind: Annotated[str, Form(max_length=16)] = "",
    text: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """The form, filled in."""
    same_site(request)
    _count(request)
    done = reports.report(storage, viewer, namespace, name, version, kind, text)
    with storage.database.read() as connection:
        found = reports.find_version(connection, viewer, namespace, name, version)
    return _page(request, found, number=done["id"])


def install(app: FastAPI) -> None:
    """The page, and the counters and the queue of this process."""
    app.include_router(page_router)
    app.state.reports_sent = Buckets()
    app.state.weights = WeightQueue()


def _weights(connection: Connection, found: Row[Any]) -> dict[str, Any]:
    files = connection.execute(
        select(version_files.c.path, version_files.c.digest)
        .where(version_files.c.version_id == found.id, version_files.c.path.endswith(".safetensors"))
        .order_by(version_files.c.path)
    ).all()
    known = weights_of(connection, [file.digest for file in files])
    return {
        "files": [{"path": file.path, "digest": file.digest, **known.get(file.digest, {})} for file in files],
        "complete": all(file.digest in known for file in files),
    }


def _page(request: Request, found: Any, number: int = 0) -> Response:
    twin = f"/v1/adapters/@{found.namespace}/{found.name}/versions/{found.version}"
    body = render("report.html", site_of(request), twin=twin, adapter=found, kinds=reports.KINDS, number=number)
    return Response(body, 200, FORM_HEADERS, "text/html; charset=utf-8")


def _count(request: Request) -> None:
    buckets: Buckets = request.app.state.reports_sent
    verdict = buckets.take(client_address(request.scope, request.app.state.settings), _A_MINUTE)
    if not verdict.allowed:
        raise QuotaExceededError(
            f"More than {_A_MINUTE} reports a minute came from your address.",
            hint="Wait a minute.",
            details={"limit": _A_MINUTE},
        )
