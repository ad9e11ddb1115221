"""Resolve, index, manifests, blobs and adapters over HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.dependencies import Bearer, SettingsOf, StorageOf, ViewerOf
from adapterhub.server.federation.upstream import Upstream
from adapterhub.server.operations.metrics import BLOB_BYTES, RESOLVES
from adapterhub.server.resolving.answers import Answer, Answers
from adapterhub.server.resolving.content import blob_size, manifest_bytes, parse_range
from adapterhub.server.resolving.details import adapter_details, version_details
from adapterhub.server.resolving.files import etag_of, index_file
from adapterhub.server.resolving.history import adapter_history
from adapterhub.server.resolving.service import resolve_reference
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import hub_text
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError, InvalidConfigError
from adapterhub.spec.reference import fold, parse_reference
from adapterhub.spec.validation.strict_json import JSONSyntaxError, read_json

__all__ = ["router"]

router = APIRouter(tags=["resolving"], dependencies=[Depends(Bearer)])

Result = TypeVar("Result")

_FOR_EVER = "public, max-age=31536000, immutable"
_SHORT = "public, max-age=0, must-revalidate"
_NOT_CHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Not changed"}}
Digest = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$")]
Namespace = Annotated[str, Path(max_length=64)]
Name = Annotated[str, Path(max_length=128)]


async def query(storage: Storage, work: Callable[[], Result]) -> Result:
    """Run a short read: at once where the database is a local file, in a thread where it is a server."""
    return work() if storage.database.is_sqlite else await run_in_threadpool(work)


@router.get("/v1/resolve", summary="Which version a reference stands for")
async def resolve(
    request: Request,
    storage: StorageOf,
    viewer: ViewerOf,
    ref: Annotated[str, Query(max_length=16384, description="`task/subtask@ns:version`, a word, or `@ns/name`")],
    model: Annotated[
        str | None, Query(max_length=255, description="Base model; needed unless the reference is `@ns/name`")
    ] = None,
    config: Annotated[
        str | None, Query(max_length=16384, description="Preset name, config id, or config as JSON")
    ] = None,
    type: Annotated[str | None, Query(max_length=32)] = None,
    version: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """The spec's resolution over everything the caller may see. Nothing ever falls back silently."""
    answers: Answers = request.app.state.answers
    key = (ref, model, config, type, version)

    parsed = parse_reference(ref)

    def work() -> bytes:
        kept, serial = answers.get(key) if viewer is ANONYMOUS else (None, -1)
        if kept is not None:
            kept.raise_again()
            return kept.body
        about = (fold(parsed.namespace or ""), fold(parsed.name)) if parsed.name else model
        try:
            with storage.database.read() as connection:
                found = resolve_reference(
                    connection, parsed, viewer, model_name=model, config=_config(config), type=type, version=version
                )
        except AdapterHubError as error:
            if viewer is ANONYMOUS:
                answers.put(key, Answer.of_error(error, about), serial)
            raise
        body = json.dumps(found.to_json(), ensure_ascii=False, separators=(",", ":")).encode()
        if viewer is ANONYMOUS:
            answers.put(key, Answer(body, None, about), serial)
        return body

    try:
        # a word may find hundreds of adapters: that is worked out in a thread, so that nobody waits behind it
        aside = parsed.word is not None and not answers.holds(key)
        body = await (run_in_threadpool(work) if aside else query(storage, work))
    except AdapterHubError as error:
        upstream: Upstream | None = request.app.state.upstream
        if upstream is not None and isinstance(error, AdapterNotFoundError):
            pulled = await upstream.resolve(request, viewer, ref, error)
            if pulled is not None:
                return pulled
        RESOLVES.labels(error.code).inc()
        raise
    RESOLVES.labels("ok").inc()
    return Response(body, media_type="application/json", headers=_cache_headers(viewer, _SHORT))


@router.head(
    "/index/{path:path}",
    summary="Whether a file of the sparse index is there, and has changed",
    response_class=Response,
    responses=_NOT_CHANGED,
)
@router.get(
    "/index/{path:path}",
    summary="A file of the sparse index",
    response_class=Response,
    responses={200: {"content": {"application/jsonl": {}, "application/json": {}}}, **_NOT_CHANGED},
)
async def index(
    request: Request,
    storage: StorageOf,
    settings: SettingsOf,
    viewer: ViewerOf,
    path: Annotated[str, Path(max_length=400)],
    if_none_match: Annotated[str | None, Header()] = None,
    accept_encoding: Annotated[str, Header(max_length=200, include_in_schema=False)] = "",
) -> Response:
    """JSON lines, one per version; see the spec. 404 means: nothing there. Compressed with gzip for those who take it."""

    state = request.app.state

    def work() -> tuple[int, bytes | None]:
        serial = storage.database.serial()
        with storage.database.read() as connection:
            if not hasattr(state, "hub_id"):
                state.hub_id = hub_text(connection, "id")
            return serial, index_file(connection, settings, path, viewer)

    # a file of a crowded bucket may be long work: nobody waits behind it
    serial, body = await (run_in_threadpool(work) if path[:1] in "ak" else query(storage, work))
    upstream: Upstream | None = request.app.state.upstream
    if upstream is not None:
        body = await upstream.index(request, path, body)
    if body is None:
        missing = AdapterNotFoundError(f"There is no index file /index/{path[:200]}.")
        missing.headers = {"AdapterHub-Serial": str(serial), "AdapterHub-Hub": state.hub_id}  # type: ignore[attr-defined]
        raise missing
    # the serial only grows: a client that has seen a higher one knows that it is shown an old index
    told = {"AdapterHub-Serial": str(serial), "AdapterHub-Hub": state.hub_id}
    headers = {"ETag": etag_of(body), **told, **_cache_headers(viewer, _SHORT)}
    headers["Vary"] = "Authorization, Accept-Encoding"
    if _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if len(body) > 1000 and "gzip" in accept_encoding:
        body = await run_in_threadpool(_packed, body) if len(body) > 200_000 else _packed(body)
        headers |= {"Content-Encoding": "gzip", "ETag": f"W/{headers['ETag']}"}
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    headers["Content-Digest"] = f"sha-256=:{digest}:"  # RFC 9530: of the bytes as they are sent
    kind = "application/json" if path.endswith(".json") else "application/jsonl"
    return Response(body, media_type=kind, headers=headers)


@router.head(
    "/v1/manifests/{digest}",
    summary="Whether a manifest is there, and its size",
    response_class=Response,
    responses=_NOT_CHANGED,
)
@router.get(
    "/v1/manifests/{digest}", summary="A manifest by its digest", response_class=Response, responses=_NOT_CHANGED
)
async def manifest(
    request: Request,
    storage: StorageOf,
    viewer: ViewerOf,
    digest: Digest,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """RFC 8785 bytes whose sha256 is the digest."""

    def work() -> bytes:
        with storage.database.read() as connection:
            return manifest_bytes(connection, digest, viewer)

    try:
        body = await query(storage, work)
    except AdapterNotFoundError:
        upstream: Upstream | None = request.app.state.upstream
        pulled = await upstream.manifest(request, digest) if upstream is not None else None
        if pulled is None:
            raise
        body = pulled
    headers = {"ETag": f'"{digest}"', **_cache_headers(viewer, _FOR_EVER)}
    if _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.head(
    "/v1/blobs/{digest}",
    summary="Whether a blob is there, and its size",
    response_class=Response,
    responses=_NOT_CHANGED,
)
async def blob_head(
    request: Request,
    storage: StorageOf,
    viewer: ViewerOf,
    digest: Digest,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The headers of GET."""
    size = await _blob_size(request, storage, viewer, digest)
    headers = _blob_headers(viewer, digest)
    if _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(headers={**headers, "Content-Length": str(size)})


@router.get(
    "/v1/blobs/{digest}",
    summary="A blob by its digest",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The range asked for"},
        **_NOT_CHANGED,
    },
)
async def blob(
    request: Request,
    storage: StorageOf,
    viewer: ViewerOf,
    digest: Digest,
    range: Annotated[str | None, Header(max_length=200)] = None,
    if_range: Annotated[str | None, Header(max_length=200)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes; a single `Range` is honoured."""
    size = await _blob_size(request, storage, viewer, digest)
    headers = _blob_headers(viewer, digest)
    if _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    asked = parse_range(range, size) if if_range is None or if_range.strip() == headers["ETag"] else None
    start, end = (asked.start, asked.end) if asked else (0, size)
    headers["Content-Length"] = str(end - start)
    if asked is not None:
        headers["Content-Range"] = asked.header

    async def body() -> AsyncIterator[bytes]:
        if end > start:
            async for piece in storage.blobs.stream(digest, start, end):
                yield piece
                BLOB_BYTES.labels("out").inc(len(piece))
        downloads = getattr(request.app.state, "downloads", None)
        if downloads is not None and end == size:
            downloads.completed(request, viewer, digest)

    return StreamingResponse(body(), 206 if asked else 200, headers, media_type="application/octet-stream")


@router.get("/v1/adapters/@{namespace}/{name}", tags=["adapters"], summary="One adapter and its versions")
def adapter(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name) -> Response:
    """Its properties, texts and counts, and its versions, newest first."""
    with storage.database.read() as connection:
        found = adapter_details(connection, namespace, name, viewer)
    return JSONResponse(found, headers=_cache_headers(viewer, _SHORT))


@router.get(
    "/v1/adapters/@{namespace}/{name}/versions/{version}", tags=["adapters"], summary="One version with its manifest"
)
def adapter_version(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name) -> Response:
    """The index entry, the manifest, the files."""
    with storage.database.read() as connection:
        found = version_details(connection, namespace, name, version, viewer)
    return JSONResponse(found, headers=_cache_headers(viewer, _SHORT))


@router.get("/v1/adapters/@{namespace}/{name}/history", tags=["adapters"], summary="Every version there ever was")
def history(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name) -> Response:
    """With its state: deleted ones as tombstones; those in review and refused ones for the organisation's own people."""
    with storage.database.read() as connection:
        found = adapter_history(connection, namespace, name, viewer)
    return JSONResponse(found, headers=_cache_headers(viewer, _SHORT))


async def _blob_size(request: Request, storage: Storage, viewer: Viewer, digest: str) -> int:
    def work() -> int:
        with storage.database.read() as connection:
            return blob_size(connection, digest, viewer)

    try:
        return await query(storage, work)
    except AdapterNotFoundError:
        upstream: Upstream | None = request.app.state.upstream
        pulled = await upstream.blob(request, digest) if upstream is not None else None
        if pulled is None:
            raise
        return pulled


def _blob_headers(viewer: Viewer, digest: str) -> dict[str, str]:
    return {
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        **_cache_headers(viewer, _FOR_EVER),
    }


def _cache_headers(viewer: Viewer, public: str) -> dict[str, str]:
    """What a token showed must not come out of a shared cache."""
    if viewer.token_id is None:
        return {"Cache-Control": public, "Vary": "Authorization"}
    return {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


def _packed(body: bytes) -> bytes:
    """gzip, the same bytes each time."""
    return gzip.compress(body, 6, mtime=0)


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in {part.strip().removeprefix("W/") for part in header.split(",")}


def _config(text: str | None) -> Any:
    """The `config` parameter: JSON if it looks like it, else a name."""
    if text is None or not text.lstrip().startswith(("{", "[")):
        return text or None
    try:
        return read_json(text.encode("utf-8", "surrogatepass"), max_bytes=65536)
    except JSONSyntaxError as error:
        raise InvalidConfigError(f"config is no JSON: {error.message}.") from None
