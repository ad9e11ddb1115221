"""A hub over HTTP: a live server, or a static export of one on any web server (the same paths)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from adapterhub.client.cache import Partial, hex_of
from adapterhub.client.index import IndexAnswer
from adapterhub.client.settings import Hub
from adapterhub.client.sources.static import entry_filter, in_order, listed_infos
from adapterhub.client.transport import Answer, Transport
from adapterhub.spec.errors import AdapterNotFoundError, HubConnectionError, IntegrityError

__all__ = ["HubSource"]

MANIFEST_CAP = 1024 * 1024
_MAX_AGE = re.compile(r"max-age=(\d{1,9})")
_ASK_EACH_TIME = re.compile(r"\b(no-cache|no-store)\b")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")


class HubSource:
    """Reads from one hub over HTTP."""

    offline_capable = False

    def __init__(self, hub: Hub, transport: Transport) -> None:
        self.hub, self.transport = hub, transport

    def index_file(self, path: str, etag: str | None, *, patient: bool) -> IndexAnswer:
        """See `Source`. A live hub and a file server both answer 404 for what is not there."""
        headers = {"if-none-match": etag} if etag else {}
        answer = self.transport.request(
            "GET", quote(path, safe="/"), headers=headers, accept=(304, 404, 410), retry=patient
        )
        control = answer.headers.get("cache-control", "").lower()
        told = _MAX_AGE.search(control)
        max_age = 0 if _ASK_EACH_TIME.search(control) else int(told[1]) if told else None
        serial = answer.headers.get("adapterhub-serial", "")
        state = {200: "found", 304: "unchanged" if etag else None, 404: "absent", 410: "absent"}.get(answer.status)
        if state is None:
            raise HubConnectionError(f"{self.hub.url}{path} answers {answer.status}, which says nothing.")
        if state == "found" and "text/html" in answer.headers.get("content-type", ""):
            raise HubConnectionError(
                f"{self.hub.url}{path} is an HTML page, not an index file.",
                hint="Is the address that of a hub (adapterhub env)? A proxy or login page may be in between.",
            )
        return IndexAnswer(
            state=state,
            body=answer.body if state == "found" else b"",
            etag=answer.headers.get("etag"),
            max_age=max_age,
            serial=int(serial) if serial.isdigit() else None,
            hub_id=answer.headers.get("adapterhub-hub") or None,
        )

    def manifest(self, digest: str) -> bytes:
        """See `Source`."""
        return self.transport.request("GET", f"/v1/manifests/sha256:{hex_of(digest)}", cap=MANIFEST_CAP).body

    def blob(self, digest: str, size: int, partial: Partial, progress: Callable[[int], None]) -> None:
        """See `Source`. Broken connections are taken up where they broke."""
        transport = self.transport
        url = transport.address(f"/v1/blobs/sha256:{hex_of(digest)}")
        reached = partial.offset  # the furthest so far: starting over is no progress

        def once() -> None:
            nonlocal reached
            if partial.offset == size:
                return
            headers = {"accept": "application/octet-stream", "accept-encoding": "identity"}
            if partial.offset:
                headers["range"] = f"bytes={partial.offset}-"
            with transport.exchange("GET", url, headers=headers) as response:
                status = response.status_code
                if status == 416 or (status == 206 and not _continues(response.headers, partial.offset, size)):
                    progress(-partial.offset)
                    partial.restart()
                    raise HubConnectionError(
                        f"{self.hub.url} answers ranges wrongly.", details={"retry": True}, hint="Try again later."
                    )
                if status == 200 and partial.offset:
                    progress(-partial.offset)
                    partial.restart()
                if status not in (200, 206):
                    body = b"".join(transport.plain_body(response, 1 << 20))
                    lowered = {key.lower(): value for key, value in response.headers.items()}
                    raise transport.error_of(Answer(status, lowered, body), url)
                try:
                    for piece in transport.plain_body(response, size - partial.offset):
                        partial.append(piece)
                        reached = max(reached, partial.offset)
                        progress(len(piece))
                except IntegrityError:  # more than is due: then what came before is not to be trusted either
                    progress(-partial.offset)
                    partial.restart()
                    raise
            if partial.offset < size:
                raise HubConnectionError(
                    f"{self.hub.url} ended {digest[:19]}… after {partial.offset:,} of {size:,} bytes.",
                    hint="Try again; what arrived so far is kept.",
                    details={"retry": True},
                )

        try:
            transport.repeat(once, progressed=lambda: reached)
        except AdapterNotFoundError as error:
            raise IntegrityError(
                f"The hub {self.hub.name!r} lists {digest} but does not have its bytes.",
                hint="Tell who runs the hub (adapterhub-server verify).",
            ) from error

    def adapters(self, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """See `Source`. Pages of the live hub; the list of all adapters of a static export."""
        cursor: str | None = None
        params = {key: value for key, value in filters.items() if value is not None and key != "limit"}
        limit = filters.get("limit")
        seen: set[str] = set()
        while True:
            size = 100 if limit is None else min(100, max(1, int(limit)))
            query = {**params, "limit": size, **({"cursor": cursor} if cursor else {})}
            answer = self.transport.request(
                "GET", "/v1/adapters", params=query, accept=(404,) if cursor is None else ()
            )
            if answer.status == 404:
                yield from self._adapters_of_export(filters)
                return
            page = answer.json()
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise HubConnectionError(f"{self.hub.url}/v1/adapters does not answer with a list of adapters.")
            for item in page["items"]:
                if isinstance(item, dict):
                    yield item
            cursor = page.get("next")
            if not isinstance(cursor, str) or not cursor or cursor in seen:
                return
            seen.add(cursor)

    def _adapters_of_export(self, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """A static export on a web server cannot search, but it has a list of all adapters."""
        about = self.transport.request("GET", "/index/list.json", accept=(404,))
        told = about.json() if about.status == 200 else None
        digits = told.get("digits") if isinstance(told, dict) else None
        if not isinstance(digits, int) or not 0 <= digits <= 4:
            raise HubConnectionError(
                f"{self.hub.url} has neither a search nor a list of its adapters.",
                hint="Is it the address of a hub, or of a static export (adapterhub-server export-static)?",
            )
        names = [f"{number:0{digits}x}" for number in range(16**digits)] if digits else ["all"]
        from concurrent.futures import ThreadPoolExecutor

        def part(name: str) -> list[dict[str, Any]]:
            answer = self.transport.request("GET", f"/index/list/{name}.jsonl", accept=(404,))
            return list(listed_infos(answer.body, keep)) if answer.status == 200 else []

        keep = entry_filter(filters)
        with ThreadPoolExecutor(min(8, len(names))) as pool:
            found = [item for items in pool.map(part, names) for item in items]
        yield from in_order(found, filters)

    def resolve_remotely(self, params: Mapping[str, Any]) -> Answer:
        """What the live hub itself says about a reference (`GET /v1/resolve`); asked only for its better errors."""
        sent = {key: value for key, value in params.items() if value is not None}
        return self.transport.request("GET", "/v1/resolve", params=sent, accept=(400, 404, 405, 409, 422), retry=False)

    def close(self) -> None:
        """See `Source`."""
        self.transport.close()


def _continues(headers: Mapping[str, str], offset: int, size: int) -> bool:
    found = _RANGE.match(headers.get("content-range", "").strip())
    if found is None:
        return False
    return int(found[1]) == offset and int(found[2]) == size - 1 and found[3] in ("*", str(size))
