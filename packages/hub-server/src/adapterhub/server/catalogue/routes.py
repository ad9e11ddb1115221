"""The catalogue over HTTP: lists and search, one adapter, the explore levels. Every page has its twin here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response

from adapterhub.server.catalogue import explore, service
from adapterhub.server.dependencies import StorageOf, ViewerOf
from adapterhub.server.search.question import Question
from adapterhub.server.search.service import search

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["catalogue"])

#: a NUL is in no name, and PostgreSQL cannot even be asked about one
NO_NUL = r"^[^\x00]*$"
Text = Annotated[str, Query(max_length=200)]
Filter = Annotated[str, Query(max_length=255, pattern=NO_NUL)]
Cursor = Annotated[str, Query(max_length=600)]
Limit = Annotated[int, Query(ge=1, le=100)]
Kind = Literal["task", "language"]
Segment = Annotated[str, Path(max_length=128, pattern=NO_NUL)]


@router.get("/adapters", summary="Search and list adapters", response_class=JSONResponse)
def list_adapters(
    storage: StorageOf,
    viewer: ViewerOf,
    q: Text = "",
    kind: Filter = "",
    type: Filter = "",
    task: Filter = "",
    subtask: Filter = "",
    model: Filter = "",
    family: Filter = "",
    method: Filter = "",
    using: Filter = "",
    language: Filter = "",
    license: Filter = "",
    namespace: Filter = "",
    sort: Literal["", "relevance", "downloads", "newest", "name"] = "",
    cursor: Cursor = "",
    limit: Limit = 20,
    facets: bool = True,
) -> Response:
    """Adapters that match the text and every filter. `next` is the cursor of the following page; `total` is a lower bound
    where `total_exact` is false."""
    filters = {
        "kind": kind, "type": type, "task": task, "subtask": subtask, "model": model, "family": family, "method": method, "using": using,
        "language": language, "license": license, "namespace": namespace.removeprefix("@"),
    }  # fmt: skip
    question = Question(q, {name: value for name, value in filters.items() if value}, sort, limit, cursor)
    with storage.database.read() as connection:
        return JSONResponse(search(connection, question, viewer, facets=facets).to_json())


@router.get("/catalogue/@{namespace}/{name}", summary="Everything the page of an adapter shows")
def adapter(storage: StorageOf, viewer: ViewerOf, namespace: Segment, name: Segment) -> dict[str, Any]:
    """The version that stands for the adapter, and the list of all versions."""
    with storage.database.read() as connection:
        return service.adapter_detail(connection, namespace, name, None, viewer).to_json()


@router.get("/catalogue/@{namespace}/{name}/versions/{version}", summary="Everything the page of a version shows")
def adapter_version(
    storage: StorageOf, viewer: ViewerOf, namespace: Segment, name: Segment, version: Segment
) -> dict[str, Any]:
    """One version, and the list of all versions."""
    with storage.database.read() as connection:
        return service.adapter_detail(connection, namespace, name, version, viewer).to_json()


@router.get("/namespaces/@{namespace}", summary="A publisher and its adapters")
def namespace(
    storage: StorageOf, viewer: ViewerOf, namespace: Segment, cursor: Cursor = "", limit: Limit = 24
) -> dict[str, Any]:
    """The adapters of a publisher by name."""
    with storage.database.read() as connection:
        organisation, page = service.namespace_adapters(connection, namespace, viewer, cursor=cursor, limit=limit)
    about = {key: getattr(organisation, key) for key in ("name", "display_name", "description", "url", "created_at")}
    return {**about, **page.to_json()}


@router.get("/counts", summary="The hub in figures")
def counts(storage: StorageOf) -> dict[str, Any]:
    """How many adapters, tasks, data sets, languages, base models and publishers there are."""
    with storage.database.read() as connection:
        return service.hub_counts(connection).to_json()


@router.get("/explore/{kind}", summary="First explore level")
def explore_kind(storage: StorageOf, kind: Kind, q: Text = "") -> dict[str, Any]:
    """Tasks or languages that have adapters, with counts."""
    with storage.database.read() as connection:
        return {"kind": kind, "items": [view.to_json() for view in explore.explore_kind(connection, kind, q)]}


@router.get("/explore/{kind}/{task}", summary="Second explore level")
def explore_task(storage: StorageOf, kind: Kind, task: Segment) -> dict[str, Any]:
    """Data sets of a task, or domains of a language, that have adapters."""
    with storage.database.read() as connection:
        return explore.explore_task(connection, kind, task).to_json()


@router.get("/explore/{kind}/{task}/{subtask}", summary="Third explore level")
def explore_subtask(
    storage: StorageOf,
    kind: Kind,
    task: Segment,
    subtask: Segment,
    family: Filter = "",
    model: Filter = "",
    method: Filter = "",
    using: Filter = "",
    reduction_factor: Filter = "",
    non_linearity: Filter = "",
    cursor: Cursor = "",
    limit: Limit = 24,
) -> dict[str, Any]:
    """The adapters of one data set or domain, filtered by model and hyper-parameters."""
    filters = {
        "family": family, "model": model, "method": method, "using": using, "reduction_factor": reduction_factor,
        "non_linearity": non_linearity,
    }  # fmt: skip
    with storage.database.read() as connection:
        _task, view, page = explore.explore_adapters(
            connection, kind, task, subtask, filters, cursor=cursor, limit=limit
        )
    return {**view.to_json(), **page.to_json()}
