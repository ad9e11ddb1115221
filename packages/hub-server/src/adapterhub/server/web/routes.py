"""Pages over HTTP: addresses, headers, compression and conditional requests. What stands on a page is in `pages`."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy import Connection, select
from starlette.exceptions import HTTPException

from adapterhub.server.catalogue.explore import CELL_FILTERS
from adapterhub.server.catalogue.routes import NO_NUL
from adapterhub.server.dependencies import StorageOf, ViewerOf, public_url
from adapterhub.server.search.question import FILTERS, Question
from adapterhub.server.storage.tables import hub
from adapterhub.server.web import pages
from adapterhub.server.web.templating import STATIC_FOLDER, Site
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.reference import fold

__all__ = ["PAGE_POLICY", "install", "router"]

#: Pages run their own scripts and styles and nothing else; no inline code, no other host, no frame around them.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding, Authorization",
}
_SUFFIXES = {".css", ".js", ".svg", ".txt"}


class PageRoute(APIRoute):
    """A route that answers HEAD as well, and its failures with a page instead of a problem document."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.methods = {*(self.methods or ()), "HEAD"}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                return await handle(request)
            except AdapterHubError as error:
                status = int(getattr(error, "http_status", error.status))
                versions = [text for text in error.candidates if isinstance(text, str)]
                links = [(text, f"{_adapter_path(request)}/versions/{text}") for text in versions]
                links += [(text, f"/{text}") for text in error.suggestions if text.startswith("@")]
                heading = "Not found" if status == 404 else error.to_problem()["title"]
                label = "Versions" if versions else "Close to it"
                body = pages.problem_page(
                    site_of(request), status, heading, error.message, error.hint, links[:10], label
                )
                return _answer(request, body, status)
            except RequestValidationError as error:
                first = error.errors()[0]
                detail = f"{'/'.join(str(step) for step in first.get('loc', ())[1:])}: {first.get('msg', '')}."
                return _answer(
                    request, pages.problem_page(site_of(request), 422, "This address is malformed", detail), 422
                )

        return page


router = APIRouter(route_class=PageRoute, include_in_schema=False)

Kind = Literal["task", "language"]
Segment = Annotated[str, Path(max_length=128, pattern=NO_NUL)]
Text = Annotated[str, Query(max_length=200)]
Cursor = Annotated[str, Query(max_length=600)]


def site_of(request: Request) -> Site:
    """What pages say about this hub."""
    root = str(request.scope.get("root_path") or "").rstrip("/")
    state = request.app.state
    return Site(state.settings.name, public_url(request), root, bool(getattr(state, "static", False)))


@router.get("/")
def landing(request: Request, storage: StorageOf) -> Response:
    site = site_of(request)
    with storage.database.read() as connection:
        return _answer(request, _kept(request, connection, ("", site), lambda: pages.landing_page(connection, site)))


@router.get("/explore")
def explore(request: Request) -> Response:
    return Response(status_code=307, headers={"Location": f"{site_of(request).root}/explore/task"})


@router.get("/explore/{kind}")
def explore_kind(request: Request, storage: StorageOf, kind: Kind, q: Text = "") -> Response:
    site = site_of(request)
    with storage.database.read() as connection:
        if q.strip():
            return _answer(request, pages.explore_kind_page(connection, site, kind, q))
        return _answer(
            request, _kept(request, connection, (kind, site), lambda: pages.explore_kind_page(connection, site, kind))
        )


@router.get("/explore/{kind}/{task}")
def explore_task(request: Request, storage: StorageOf, kind: Kind, task: Segment) -> Response:
    with storage.database.read() as connection:
        return _answer(request, pages.explore_task_page(connection, site_of(request), kind, task))


@router.get("/explore/{kind}/{task}/{subtask}")
def explore_subtask(
    request: Request, storage: StorageOf, kind: Kind, task: Segment, subtask: Segment, cursor: Cursor = ""
) -> Response:
    filters = _given(request, CELL_FILTERS)
    site = site_of(request)
    with storage.database.read() as connection:

        def draw() -> str:
            return pages.explore_subtask_page(connection, site, kind, task, subtask, filters, cursor)

        plain = not cursor and not filters
        page = _kept(request, connection, (kind, fold(task), fold(subtask), site), draw) if plain else draw()
    return _answer(request, page)


@router.get("/search")
def search(
    request: Request, storage: StorageOf, viewer: ViewerOf, q: Text = "", sort: Text = "", cursor: Cursor = ""
) -> Response:
    question = Question(q, _given(request, FILTERS), sort, 20, cursor)
    with storage.database.read() as connection:
        return _answer(request, pages.search_page(connection, site_of(request), question, viewer))


@router.get("/docs")
def docs(request: Request) -> Response:
    return _answer(request, pages.docs_page(site_of(request)))


@router.get("/feed.atom")
def feed(request: Request, storage: StorageOf) -> Response:
    with storage.database.read() as connection:
        return _answer(
            request, pages.feed(connection, site_of(request)), media_type="application/atom+xml; charset=utf-8"
        )


@router.get("/@{namespace}/{name}/versions/{version}")
def adapter_version(
    request: Request, storage: StorageOf, viewer: ViewerOf, namespace: Segment, name: Segment, version: Segment
) -> Response:
    with storage.database.read() as connection:
        return _answer(request, pages.adapter_page(connection, site_of(request), namespace, name, version, viewer))


@router.get("/@{namespace}/{name}")
def adapter(request: Request, storage: StorageOf, viewer: ViewerOf, namespace: Segment, name: Segment) -> Response:
    with storage.database.read() as connection:
        return _answer(request, pages.adapter_page(connection, site_of(request), namespace, name, None, viewer))


@router.get("/@{namespace}")
def namespace(
    request: Request, storage: StorageOf, viewer: ViewerOf, namespace: Segment, cursor: Cursor = ""
) -> Response:
    with storage.database.read() as connection:
        return _answer(request, pages.namespace_page(connection, site_of(request), namespace, cursor, viewer))


@router.get("/static/{name}")
def static(request: Request, name: Segment) -> Response:
    found = static_files().get(name)
    if found is None:
        raise HTTPException(404)
    plain, packed, kind = found
    fixed = "v" in request.query_params  # the address carries the file's fingerprint
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if fixed else "public, max-age=300",
        "Vary": "Accept-Encoding",
    }
    if _takes_gzip(request):
        return Response(packed, media_type=kind, headers={**headers, "Content-Encoding": "gzip"})
    return Response(plain, media_type=kind, headers=headers)


@lru_cache(maxsize=1)
def static_files() -> dict[str, tuple[bytes, bytes, str]]:
    """Each static file by name: as it is, compressed, and its media type."""
    found = {}
    for path in STATIC_FOLDER.iterdir():
        if path.suffix in _SUFFIXES:
            data = path.read_bytes()
            found[path.name] = (
                data,
                gzip.compress(data, 9, mtime=0),
                mimetypes.guess_type(path.name)[0] or "text/plain",
            )
    return found


def install(app: FastAPI) -> None:
    """Answer unknown addresses with a page where a browser asks; programs keep their problem documents."""
    app.state.kept_pages = {}
    others: Any = app.exception_handlers[HTTPException]

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if (
            error.status_code == 404
            and not path.startswith(("/v1/", "/index/"))
            and "text/html" in request.headers.get("accept", "")
        ):
            page = pages.problem_page(site_of(request), 404, "Not found", f"There is no page at {path[:200]}.")
            return _answer(request, page, 404)
        answer: Response = await others(request, error)
        return answer

    app.add_exception_handler(HTTPException, unknown)


def _given(request: Request, names: Iterable[str]) -> dict[str, str]:
    """The filters of these names in the address; empty ones are as good as absent."""
    found = {name: request.query_params.get(name, "").replace("\0", "")[:255] for name in names}
    return {name: value for name, value in found.items() if value}


def _kept(request: Request, connection: Connection, key: Any, draw: Callable[[], str]) -> str:
    """A page that everybody asks for, drawn once for each state of the hub (and once a minute, whatever happens)."""
    kept: dict[Any, tuple[int, float, str]] = request.app.state.kept_pages
    serial = int(connection.execute(select(hub.c.number).where(hub.c.key == "serial")).scalar_one())
    found = kept.get(key)
    if found is not None and found[0] == serial and time.monotonic() - found[1] < 60:
        return found[2]
    if len(kept) > 200:  # bounded, whatever Host headers people send
        kept.clear()
    page = draw()
    kept[key] = (serial, time.monotonic(), page)
    return page


def _adapter_path(request: Request) -> str:
    """`/@ns/name` of the page asked for."""
    return "/".join(request.url.path.split("/")[:3])


def _answer(request: Request, body: str, status: int = 200, media_type: str = "text/html; charset=utf-8") -> Response:
    data = body.encode()
    headers = dict(_HEADERS)
    if "authorization" in request.headers:  # may hold what only this reader may see
        headers["Cache-Control"] = "private, no-cache"
    if status == 200:
        tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
        headers["ETag"] = f"W/{tag}"
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
    if len(data) > 2000 and _takes_gzip(request):
        data = gzip.compress(data, 4, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(data, status, headers, media_type)


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "").lower()
