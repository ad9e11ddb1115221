"""Connections to a hub: how they are made, and when they are broken off."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from adapterhub.client.transport import Limits

__all__ = ["HeadWatch", "new_client"]


class HeadWatch:
    """Breaks an exchange off when the head of its answer does not become complete, though a byte comes now and then (a slow
    drip, or one interim answer after the other): the time-out of a single read never sees that.

    Listens to what httpcore tells while it works (the extension `trace`). The only way in from another thread is to close
    all connections to the hub; transfers beside this one break and are taken up again.

    Attributes:
        late: it did so.
    """

    def __init__(self, close: Callable[[], None], patience: float) -> None:
        self.close, self.patience = close, patience
        self.late = False
        self._timer: threading.Timer | None = None

    def __call__(self, event: str, details: Any) -> None:
        if event.endswith(".receive_response_headers.started"):
            self._timer = threading.Timer(self.patience, self._break_off)
            self._timer.daemon = True
            self._timer.start()
        elif self._timer is not None and ".receive_response_headers." in event:
            self._timer.cancel()

    def _break_off(self) -> None:
        self.late = True
        self.close()


def new_client(secure: bool, loopback: bool, limits: Limits) -> httpx.Client:
    """Connections of one kind. This machine is never asked through a proxy: it would read the token that plain http may
    carry here. Cookies are not kept: nobody is to be recognised by them."""
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx

    from adapterhub.client.__about__ import __version__

    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    verify = True if secure else _plain_context()
    pool = httpx.Limits(max_connections=16, max_keepalive_connections=16)
    return httpx.Client(
        transport=httpx.HTTPTransport(verify=verify, http2=secure, limits=pool) if loopback else None,
        verify=verify,
        http2=secure,
        limits=pool,
        timeout=httpx.Timeout(limits.read, connect=limits.connect),
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"user-agent": f"adapterhub-client/{__version__} python/{python}"},
    )


def _plain_context() -> Any:
    """For connections without TLS: reading the authorities would be most of the time a small hub nearby takes. Should one
    turn out to need TLS after all (a proxy that is spoken to by https), they are read."""
    import ssl
    from urllib.request import getproxies

    if any(address.lower().startswith("https://") for address in getproxies().values()):
        return True
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
