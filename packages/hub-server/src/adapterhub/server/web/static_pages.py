"""Pages as files: links that need no server, and JSON twins in which one file holds the whole list."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx

__all__ = ["twin_address", "twin_of", "with_relative_links"]

_LINK = re.compile(r'(<[a-z][^<>]*\s(?:href|src)=)"/([^"]*)"')  # within a tag: in text it is text
_FILE = re.compile(r"(static|v1|index)/.*|feed\.atom|(.*/)?index\.json")


def with_relative_links(html: str, page: str) -> str:
    """A page whose links lead from its own file, `<page>/index.html`, to other files: it works below any path of any web
    server, and opened from a disk."""
    up = "../" * len([part for part in urlsplit(page).path.split("/") if part])

    def relative(found: re.Match[str]) -> str:
        path, mark, rest = re.fullmatch(r"([^?#]*)([?#]?)(.*)", found[2], re.DOTALL).groups()  # type: ignore[union-attr]
        if not _FILE.fullmatch(path):
            path = f"{path.rstrip('/')}/index.html".lstrip("/")
        return f'{found[1]}"{up}{path}{mark}{rest}"'

    return _LINK.sub(relative, html)


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
