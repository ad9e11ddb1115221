"""Uploads, publishing and validation over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from adapterhub.server.dependencies import Bearer, SettingsOf, StorageOf, ViewerOf, public_url
from adapterhub.server.operations.metrics import BLOB_BYTES, PUBLISHES
from adapterhub.server.publishing import uploads
from adapterhub.server.publishing.service import publish
from adapterhub.server.publishing.validation import one_of_few, validate_parts
from adapterhub.spec.errors import AdapterHubError, ValidationFailedError

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["publishing"], dependencies=[Depends(Bearer)])

_BYTES = {
    "requestBody": {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "required": False,
    }
}
UploadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Digest = Annotated[str, Query(description="`sha256:` and 64 hex digits", max_length=71)]


@router.post("/uploads", status_code=201, summary="Open an upload, or send a small file whole", openapi_extra=_BYTES)
async def begin(
    request: Request,
    storage: StorageOf,
    settings: SettingsOf,
    viewer: ViewerOf,
    digest: Annotated[str | None, Query(description="With it, the body is the whole file", max_length=71)] = None,
) -> Response:
    """Without `digest`: an upload session to send pieces to. With it: the body is the whole file, stored at once."""
    if digest is not None:
        done = await uploads.upload_whole(storage, settings, viewer, digest, request.stream())
        BLOB_BYTES.labels("in").inc(done["size"])
        return JSONResponse(done, 201, headers={"Location": f"/v1/blobs/{digest}"})
    opened = await run_in_threadpool(uploads.begin_upload, storage, settings, viewer)
    headers = {"Location": opened["location"], "Upload-Offset": "0", "Cache-Control": "no-store"}
    return JSONResponse(opened, 201, headers=headers)


@router.patch("/uploads/{upload_id}", status_code=204, summary="Send the next piece", openapi_extra=_BYTES)
async def append(
    request: Request,
    storage: StorageOf,
    settings: SettingsOf,
    viewer: ViewerOf,
    upload_id: UploadId,
    upload_offset: Annotated[int, Header(ge=0, le=2**53, description="Where this piece starts")],
) -> Response:
    """Bytes from `Upload-Offset` on. If the connection breaks, what arrived is kept: ask with HEAD and go on."""
    offset = await uploads.append(storage, settings, upload_id, viewer, upload_offset, request.stream())
    BLOB_BYTES.labels("in").inc(offset - upload_offset)
    return Response(status_code=204, headers={"Upload-Offset": str(offset)})


@router.head("/uploads/{upload_id}", status_code=204, summary="How much has arrived")
def offset(storage: StorageOf, viewer: ViewerOf, upload_id: UploadId) -> Response:
    """The header `Upload-Offset` says where to go on."""
    found = uploads.offset_of(storage, upload_id, viewer)
    return Response(status_code=204, headers={"Upload-Offset": str(found), "Cache-Control": "no-store"})


@router.put("/uploads/{upload_id}", status_code=201, summary="Finish an upload")
async def finish(
    request: Request, storage: StorageOf, viewer: ViewerOf, upload_id: UploadId, digest: Digest
) -> Response:
    """The bytes must hash to `digest`; otherwise they are discarded (422, code Integrity)."""
    async for piece in request.stream():
        if piece:
            raise ValidationFailedError("PUT takes no body.", hint="Send the last piece with PATCH, then PUT.")
    done = await run_in_threadpool(uploads.finish, storage, upload_id, viewer, digest)
    return JSONResponse(done, 201, headers={"Location": f"/v1/blobs/{digest}"})


@router.delete("/uploads/{upload_id}", status_code=204, summary="Forget an upload")
def discard(storage: StorageOf, viewer: ViewerOf, upload_id: UploadId) -> Response:
    """The bytes sent so far are deleted."""
    uploads.discard_upload(storage, upload_id, viewer)
    return Response(status_code=204)


@router.post(
    "/publish",
    status_code=201,
    summary="Publish a version",
    responses={200: {"description": "Exactly this was published before"}, 201: {"description": "Published"}},
)
def publish_version(
    request: Request,
    storage: StorageOf,
    settings: SettingsOf,
    viewer: ViewerOf,
    body: Annotated[dict[str, Any], Body(examples=[{"manifest": {}}])],
) -> Response:
    """All of it or nothing: the manifest is checked against its schema and against the uploaded bytes, then the version is there."""
    viewer.require("publish")
    if not isinstance(body.get("manifest"), dict) or len(body) != 1:
        raise ValidationFailedError(
            'The body is {"manifest": {…}} and nothing else.',
            problems=[{"pointer": "/manifest", "message": "is no object", "hint": "", "severity": "error"}],
        )
    try:
        done = publish(storage, settings, viewer, body["manifest"])
    except AdapterHubError as error:
        PUBLISHES.labels(error.code).inc()
        raise
    PUBLISHES.labels("created" if done.created else "same").inc()
    if done.created:
        files = body["manifest"]["files"]
        request.app.state.weights.add(file["digest"] for file in files if file["path"].endswith(".safetensors"))
    base = public_url(request)
    answer = done.to_json(base)
    return JSONResponse(answer, 201 if done.created else 200, headers={"Location": answer["url"]})


@router.post(
    "/validate",
    summary="Check an adapter folder or a single file without publishing it",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    }
                }
            },
        }
    },
)
async def validate(request: Request, settings: SettingsOf, viewer: ViewerOf) -> dict[str, Any]:
    """The files of a folder (their names are paths in it), or one file. Nothing is kept; all problems are told at once."""
    with one_of_few(request.app.state.validating):
        return {"problems": await validate_parts(request, settings)}
