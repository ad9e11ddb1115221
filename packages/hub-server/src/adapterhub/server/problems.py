"""Every failure leaves the hub as an RFC 9457 problem document with a `code` and the id of the request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from obstore.exceptions import BaseError as BlobStoreError
from sqlalchemy.exc import DataError, DBAPIError, TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from adapterhub.spec.errors import AdapterHubError, AuthenticationError, ValidationFailedError

__all__ = ["PROBLEM_RESPONSES", "add_problem_handlers", "problem_response"]

log = logging.getLogger("adapterhub.server")

_TITLES = {
    400: ("Error", "Bad request"),
    401: ("Authentication", "Authentication needed"),
    403: ("Authentication", "Forbidden"),
    404: ("NotFound", "Not found"),
    405: ("Error", "Method not allowed"),
    413: ("QuotaExceeded", "Too large"),
    429: ("QuotaExceeded", "Too many requests"),
}

_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "hint": {"type": "string"},
        "candidates": {"type": "array"},
        "suggestions": {"type": "array", "items": {"type": "string"}},
        "problems": {"type": "array"},
        "request_id": {"type": "string"},
    },
}

#: for `responses=` of routers: what any route may answer when it fails
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request cannot be met", "content": {"application/problem+json": {"schema": _SCHEMA}}},
    "5XX": {"description": "The hub failed", "content": {"application/problem+json": {"schema": _SCHEMA}}},
}


def problem_response(
    request: Request, status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that carries a problem document."""
    body = {**document, "status": status, "request_id": request.scope.get("state", {}).get("request_id", "")}
    return JSONResponse(body, status, media_type="application/problem+json", headers=dict(headers or {}))


def add_problem_handlers(app: FastAPI) -> None:
    """Teach `app` to answer failures with problem documents."""
    app.add_exception_handler(AdapterHubError, _known)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(PoolTimeout, _database)
    app.add_exception_handler(BlobStoreError, _blobs)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unknown)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, AdapterHubError)
    document = error.to_problem()
    if isinstance(error, ValidationFailedError):
        document["problems"] = [problem_json(problem) for problem in error.problems]
    status = int(getattr(error, "http_status", error.status))
    headers = dict(getattr(error, "headers", {}))
    if isinstance(error, AuthenticationError) and status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="adapterhub"'
    return problem_response(request, status, document, headers)


def problem_json(problem: Any) -> dict[str, Any]:
    """A validator's `Problem` as JSON."""
    if isinstance(problem, Mapping):
        return dict(problem)
    return {name: getattr(problem, name) for name in ("pointer", "message", "hint", "severity")}


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {
            "pointer": "/" + "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in found.get("loc", ())),
            "message": str(found.get("msg", "")),
            "hint": "",
            "severity": "error",
        }
        for found in error.errors()
    ]
    first = problems[0] if problems else {"pointer": "", "message": "malformed"}
    document = ValidationFailedError(f"The request is malformed: {first['pointer']}: {first['message']}.").to_problem()
    return problem_response(request, 422, {**document, "problems": problems})


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, title = _TITLES.get(error.status_code, ("Error", "Failed"))
    detail = error.detail if isinstance(error.detail, str) else title
    if error.status_code == 404 and detail == "Not Found":
        detail = f"There is nothing at {request.url.path}."
    document = {
        "type": f"urn:adapterhub:problem:{code}",
        "title": title,
        "detail": detail,
        "code": code,
        "hint": "",
        "candidates": [],
        "suggestions": [],
    }
    return problem_response(request, error.status_code, document, error.headers)


async def _database(request: Request, error: Exception) -> Response:
    if isinstance(error, DataError):  # NUL in a text, on PostgreSQL
        document = ValidationFailedError("The request holds characters or numbers that cannot be kept.").to_problem()
        return problem_response(request, 422, document)
    return _unavailable(request, "database", error)


async def _blobs(request: Request, error: Exception) -> Response:
    return _unavailable(request, "blob store", error)


def _unavailable(request: Request, store: str, error: Exception) -> Response:
    log.error(f"{store} failed", exc_info=error)
    document = AdapterHubError(f"The hub's {store} did not answer.", hint="Try again in a moment.").to_problem()
    return problem_response(request, 503, document, {"Retry-After": "2"})


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it; the log shows it


async def _unknown(request: Request, error: Exception) -> Response:
    log.error("unexpected failure", exc_info=error)
    document = AdapterHubError("The hub failed on this request.", hint="Report it with the request id.").to_problem()
    # the server closes the connection after this: say so, or the next request on it is lost
    return problem_response(request, 500, document, {"Connection": "close"})
