"""Login without a token at hand: the hub shows a code, a person approves it in any browser, the token comes by itself (RFC 8628)."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from adapterhub.client.credentials import check_token
from adapterhub.client.settings import Hub, Settings, is_loopback
from adapterhub.client.transport import Transport
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError, AuthenticationError, HubConnectionError

__all__ = ["DeviceLogin", "begin_login"]

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_SLOWER_BY = 5.0
_USUAL_PAUSE = 5.0
_CAP = 64 * 1024
_ADDRESS = re.compile(r"https?://[\x21-\x7e]{1,2000}")
_CODE = re.compile(r"[0-9A-Za-z-]{4,32}")


@dataclass
class DeviceLogin:
    """A login that waits for approval.

    Attributes:
        user_code: what the person types.
        page: where they type it.
        page_with_code: the same page with the code filled in.
        expires_in: seconds until it is too late.
        pause: seconds between two questions.
    """

    user_code: str
    page: str
    page_with_code: str
    expires_in: float
    pause: float
    _transport: Transport = field(repr=False)
    _device_code: str = field(repr=False)
    _sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def wait(self) -> str:
        """The token, once somebody has approved.

        Raises:
            AuthenticationError: refused, or nobody approved in time.
        """
        end = self._clock() + self.expires_in
        form = {"grant_type": GRANT_TYPE, "device_code": self._device_code}
        while True:
            try:
                told = _post(self._transport, "/v1/device/token", form)
            except AuthenticationError as error:
                answer = error.details.get("error")
                if answer not in ("authorization_pending", "slow_down"):
                    raise
                if answer == "slow_down":
                    self.pause += _SLOWER_BY
            else:
                return check_token(str(told.get("access_token", "")))
            if self._clock() + self.pause > end:
                raise AuthenticationError("Nobody approved the login in time.", hint="Start again.")
            self._sleep(self.pause)


def begin_login(settings: Settings, hub: Hub, scopes: Iterable[str] = ()) -> DeviceLogin:
    """Ask `hub` for a code.

    Args:
        scopes: what the token shall be for; what the hub usually gives, if none.

    Raises:
        AuthenticationError: the hub is a folder, or is asked over plain http on another machine.
        AdapterHubError: the hub is of a kind or a release without this login.
    """
    if hub.is_folder:
        raise AuthenticationError(f"The hub {hub.name!r} is a folder and knows no tokens.")
    if hub.url.startswith("http://") and not is_loopback(hub.origin):
        raise AuthenticationError(
            f"No login at {hub.url}: the address is plain http, so anyone on the way could read the token.",
            hint="Use the hub's https address. (Plain http is fine on this machine itself.)",
        )
    transport = Transport(hub.url, offline=settings.offline)  # without any token
    form = {"client_id": f"adapterhub on {platform.node() or 'a computer'}"[:100]}
    if wanted := " ".join(scopes):
        form["scope"] = wanted
    try:
        told = _post(transport, "/v1/device/code", form)
    except AdapterNotFoundError as error:
        raise AdapterHubError(
            f"{hub.url} has no login by code.", hint="Log in with a token: adapterhub login --token TOKEN"
        ) from error
    page, code = str(told.get("verification_uri", "")), str(told.get("user_code", ""))
    if not (_ADDRESS.fullmatch(page) and _CODE.fullmatch(code) and told.get("device_code")):
        raise HubConnectionError(f"{hub.url} answers a login with something else than a code.")
    whole = str(told.get("verification_uri_complete", ""))
    return DeviceLogin(
        user_code=code,
        page=page,
        page_with_code=whole if _ADDRESS.fullmatch(whole) else page,
        expires_in=_seconds(told.get("expires_in"), 600.0),
        pause=_seconds(told.get("interval"), _USUAL_PAUSE),
        _transport=transport,
        _device_code=str(told["device_code"]),
    )


def _post(transport: Transport, path: str, form: dict[str, str]) -> dict[str, Any]:
    told = transport.request("POST", path, content=urlencode(form).encode(), headers=_FORM, cap=_CAP).json()
    return told if isinstance(told, dict) else {}


def _seconds(value: Any, usual: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 86_400
    return float(value) if good else usual
