"""Login by device code over HTTP: two calls for programs (RFC 8628 §3.1–3.5), and one page for people.

There are no sessions and no cookies. Who approves shows a token of theirs in the same form, so another site has nothing
to ride on; posts from other sites are refused all the same.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Query, Request, Response
from fastapi.responses import JSONResponse

from adapterhub.server.accounts import device
from adapterhub.server.accounts.tokens import viewer_of
from adapterhub.server.dependencies import SettingsOf, StorageOf, public_url
from adapterhub.server.operations.rates import Buckets
from adapterhub.server.operations.requests import client_address
from adapterhub.server.web.forms import FORM_HEADERS, same_site
from adapterhub.server.web.routes import PageRoute, site_of
from adapterhub.server.web.templating import render
from adapterhub.spec.errors import AdapterNotFoundError, QuotaExceededError

__all__ = ["install", "page_router", "router"]

router = APIRouter(prefix="/v1/device", tags=["accounts"])
page_router = APIRouter(route_class=PageRoute, include_in_schema=False)

_BEGINS_A_MINUTE = 20
_TRIES_A_MINUTE = (
    10  # at eight letters of twenty, ten minutes of guessing find one of a thousand codes once in 256,000 times
)
Code = Annotated[str, Form(max_length=64)]


@router.post("/code", summary="Begin a login by device code")
def begin(
    request: Request,
    storage: StorageOf,
    settings: SettingsOf,
    client_id: Annotated[
        str, Form(max_length=100, description="What the device calls itself; shown to who approves")
    ] = "",
    scope: Annotated[str, Form(max_length=128, description="Scopes with blanks between")] = "",
) -> JSONResponse:
    """Show `user_code` and `verification_uri` to the person, and ask for the token every `interval` seconds."""
    address = client_address(request.scope, settings)
    _count(request, f"begin {address}", _BEGINS_A_MINUTE)
    made = device.begin(storage.database, settings, scopes=[scope], client=client_id, address=address)
    page = f"{public_url(request)}/device"
    answer = {
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code={made['user_code']}",
        **made,
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


@router.post("/token", summary="Ask for the token of a login by device code")
def token(
    storage: StorageOf,
    device_code: Annotated[str, Form(max_length=128)],
    grant_type: Annotated[str, Form(max_length=100)] = device.GRANT_TYPE,
    client_id: Annotated[str, Form(max_length=100)] = "",
) -> JSONResponse:
    """400 with `error` `authorization_pending` or `slow_down` until somebody has decided; the token is given once."""
    if grant_type != device.GRANT_TYPE:
        raise device.refusal("unsupported_grant_type", f"The grant type here is {device.GRANT_TYPE}.")
    made = device.redeem(storage.database, device_code)
    answer: dict[str, Any] = {
        "access_token": made.secret,
        "token_type": "Bearer",
        "scope": " ".join(made.scopes),
        "expires_at": made.expires_at,
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


@page_router.get("/device")
def page(request: Request, storage: StorageOf, user_code: Annotated[str, Query(max_length=64)] = "") -> Response:
    """The code first; then what it asks for, and the question."""
    if not user_code.strip():
        return _page(request)
    _try(request)
    try:
        with storage.database.read() as connection:
            waiting = device.find_waiting(connection, user_code)
    except AdapterNotFoundError as error:
        return _page(request, 404, problem=f"{error.message} {error.hint}", typed=user_code)
    return _page(request, waiting=waiting)


@page_router.post("/device")
def answer(
    request: Request,
    storage: StorageOf,
    user_code: Code,
    token: Annotated[str, Form(max_length=200)] = "",
    answer: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Yes or no, with a token."""
    same_site(request)
    _try(request)
    viewer = viewer_of(storage.database, f"Bearer {token.strip()}")
    done = device.decide(storage.database, viewer, user_code, yes=answer == "approve")
    return _page(request, waiting=done, decided="approved" if answer == "approve" else "refused")


def install(app: FastAPI) -> None:
    """The page, and the counters of this process."""
    app.include_router(page_router)
    app.state.device_tries = Buckets()


def _page(request: Request, status: int = 200, **values: Any) -> Response:
    known = {"waiting": None, "decided": "", "problem": "", "typed": "", **values}
    body = render("device.html", site_of(request), **known)
    return Response(body, status, FORM_HEADERS, "text/html; charset=utf-8")


def _try(request: Request) -> None:
    """Codes can be tried a few times a minute."""
    _count(request, f"try {client_address(request.scope, request.app.state.settings)}", _TRIES_A_MINUTE)


def _count(request: Request, key: str, limit: int) -> None:
    buckets: Buckets = request.app.state.device_tries
    verdict = buckets.take(key, limit)
    if not verdict.allowed:
        raise QuotaExceededError(
            f"That was tried more than {limit} times a minute.",
            hint=f"Wait {max(1, round(verdict.seconds))} seconds.",
            details={"limit": limit},
        )
