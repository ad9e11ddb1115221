"""The JSON twins of pages for a static export, where one file has to hold the whole list."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import httpx

__all__ = ["twin_address", "twin_of"]


def twin_address(page: str) -> str | None:
    """The API address that says in JSON what the page says; None for pages without one."""
    path = urlsplit(page).path
    if path == "/":
        return "/v1/counts"
    if path.startswith("/explore/"):
        return f"/v1{path}"
    if path.startswith("/@"):
        return f"/v1/catalogue{path}" if path.count("/") > 1 else f"/v1/namespaces{path}"
    return None


async def twin_of(client: httpx.AsyncClient, page: str) -> bytes | None:
    """The twin of a page as JSON text, all pages of a list put together."""
    address = twin_address(page)
    if address is None:
        return None
    document = await _get(client, address, {})
    if isinstance(document, dict) and "next" in document:
        document = await _get(client, address, {"limit": "100"})
        following = document["next"]
        while following:
            more = await _get(client, address, {"limit": "100", "cursor": following})
            document["items"] += more["items"]
            following = more["next"]
        document["next"] = None
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


async def _get(client: httpx.AsyncClient, address: str, params: dict[str, str]) -> Any:
    answer = await client.get(address, params=params)
    answer.raise_for_status()
    return answer.json()
