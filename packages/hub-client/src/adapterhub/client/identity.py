"""Who a token belongs to, as its hub says."""

from __future__ import annotations

from typing import Any

from adapterhub.client.settings import Hub, Settings
from adapterhub.spec.errors import AuthenticationError

__all__ = ["who_is"]


def who_is(settings: Settings, hub: Hub, *, token: str) -> dict[str, Any]:
    """What the hub says about `token`: organisation, scopes, expiry.

    Raises:
        AuthenticationError: the token is not good there, or the hub is a folder.
    """
    from adapterhub.client.client import HubClient

    if hub.is_folder:
        raise AuthenticationError(f"The hub {hub.name!r} is a folder and knows no tokens.")
    only = settings._replace(token=token, default_hub=hub.name, hubs={hub.name: hub})
    with HubClient(settings=only) as client:
        told = client.transport(hub).request("GET", "/v1/whoami").json()
    return told if isinstance(told, dict) else {}
