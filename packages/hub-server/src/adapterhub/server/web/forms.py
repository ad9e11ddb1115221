"""What every page with a form has in common: headers, and the refusal of forms that other sites send."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request

from adapterhub.server.accounts.viewer import forbidden
from adapterhub.server.dependencies import public_url
from adapterhub.server.web.routes import PAGE_POLICY

__all__ = ["FORM_HEADERS", "same_site"]

FORM_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with `no-referrer` browsers would send the form with the Origin `null`
}


def same_site(request: Request) -> None:
    """Raise AuthenticationError for a form that another site sent."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:  # every browser of these years says so, and no page can change it
        foreign = site not in ("same-origin", "none")
    else:
        hosts = {urlsplit(public_url(request)).netloc, request.headers.get("host", "")}
        foreign = origin is not None and urlsplit(origin).netloc not in hosts
    if foreign:
        raise forbidden("This form was sent by another site.", "Open the page of the hub itself.")
