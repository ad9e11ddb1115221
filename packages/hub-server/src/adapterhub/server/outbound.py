"""Requests the hub makes itself, to addresses others chose: webhooks, OIDC issuers. Never into private networks.

The host is resolved once, every address found must be public, and the connection goes to the address that was checked, so
that a name cannot change its mind in between. No redirects; https on the ports 443 and 80; seconds, and a cap on bytes.
`Settings.private_addresses` lifts this for tests and closed networks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx

from adapterhub.server.settings import Settings
from adapterhub.spec.errors import HubConnectionError, InvalidConfigError

__all__ = ["check_address", "check_url", "get_json", "pinned"]

_TIMEOUT = 5.0
_MAX_BYTES = 1024 * 1024


def pinned(url: str, address: str, host: str, port: int) -> tuple[str, dict[str, str], dict[str, str]]:
    """`url` with the checked address in place of its host; the Host header and the TLS name that go with it."""
    parts = urlsplit(url)
    shown = f"[{address}]" if ":" in address else address
    usual = {"https": 443, "http": 80}[parts.scheme]
    name = f"[{host}]" if ":" in host else host
    headers = {"Host": name if port == usual else f"{name}:{port}", "User-Agent": "adapterhub-server"}
    return parts._replace(netloc=f"{shown}:{port}", fragment="").geturl(), headers, {"sni_hostname": host}


def get_json(settings: Settings, url: str) -> Any:
    """A JSON document from outside. Not to be called in an event loop.

    Raises:
        InvalidConfigError: the address is not allowed.
        HubConnectionError: no answer, another status than 200, too much, or no JSON.
    """
    address = check_address(settings, url)
    try:
        return json.loads(asyncio.run(_get(url, *address)))
    except (httpx.HTTPError, TimeoutError, ValueError, RecursionError) as error:
        raise HubConnectionError(f"{url} does not answer as it should: {type(error).__name__}.") from error


async def _get(url: str, address: str, host: str, port: int) -> bytes:
    """Asynchronous for one reason: only so is there a time limit for the whole of it, whatever drips in."""
    target, headers, extensions = pinned(url, address, host, port)
    async with (
        asyncio.timeout(2 * _TIMEOUT),
        httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client,
        client.stream("GET", target, headers=headers, extensions=extensions) as answer,
    ):
        if answer.status_code != 200:
            raise HubConnectionError(f"{url} answered with status {answer.status_code}.")
        body = b""
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > _MAX_BYTES:
                raise HubConnectionError(f"{url} answers with more than {_MAX_BYTES} bytes.")
    return body


def check_address(settings: Settings, url: str) -> tuple[str, str, int]:
    """Resolve the host of an address; returns (address to connect to, host name, port).

    Raises:
        InvalidConfigError: the URL is not allowed, or its host has an address that is not public.
    """
    _, host, port = check_url(settings, url)
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise InvalidConfigError(f"{host} cannot be resolved: {error}.") from None
    for address in found:
        if not (settings.private_addresses or _is_public(address)):
            raise InvalidConfigError(f"{host} has the address {address}, which is not public.")
    return sorted(found)[0], host, port


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped or (parsed.sixtofour if parsed.sixtofour else None)
        if mapped is not None:
            parsed = mapped
        elif parsed in ipaddress.ip_network("64:ff9b::/96"):
            parsed = ipaddress.ip_address(int(parsed) & 0xFFFFFFFF)
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def check_url(settings: Settings, url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address the hub may ask. Raises InvalidConfigError for one it may not."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidConfigError(f"{url[:200]!r} is no address.") from None
    host = parts.hostname or ""
    private = settings.private_addresses
    if len(url) > 1000 or any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise InvalidConfigError("The address holds blanks or characters outside ASCII, or is too long.")
    if parts.scheme not in (("https", "http") if private else ("https",)) or not host or parts.username is not None:
        raise InvalidConfigError(f"{url[:200]!r} is no https address of a host.", hint="Write https://HOST/PATH.")
    port = port or (443 if parts.scheme == "https" else 80)
    if port not in (443, 80) and not private:
        raise InvalidConfigError(f"Only the ports 443 and 80 are used, not {port}.")
    return parts.scheme, host, port
