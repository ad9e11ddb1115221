"""Pull-through from an upstream hub.

Rules, in this order:
1. Own names first: a namespace that exists here, in whatever state, is never asked for upstream, and lines of such a
   namespace that come from upstream are dropped.
2. A reference that anything here answers, even something the caller may not see, is not sent upstream: private names stay.
3. Manifests and blobs are named by digest and checked against it; bytes are passed on and kept exactly as they came.
4. Answers are kept for a minute, and for as long as it takes when upstream does not answer.
5. A request that was here already, by its `Via`, is answered with what is here: upstream leads back to this hub. What
   upstream says to a request that other hubs passed on may lack what is behind them, and is not kept.
The caller's token is never sent upstream; `Settings.upstream_token` is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from fastapi import FastAPI, Request, Response
from sqlalchemy import Connection, delete, not_, select, true, update
from starlette.concurrency import run_in_threadpool

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.federation.merging import merge_index
from adapterhub.server.federation.tables import upstream_blobs, upstream_files
from adapterhub.server.federation.via import hubs_before, via
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.resolving.files import is_index_path
from adapterhub.server.resolving.service import resolve_reference
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import hub_text
from adapterhub.server.storage.tables import adapters, blobs, now, organisations, versions
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    HubConnectionError,
    IntegrityError,
    error_from_problem,
)
from adapterhub.spec.manifest import Manifest
from adapterhub.spec.reference import fold, parse_reference

__all__ = ["Upstream"]

log = logging.getLogger("adapterhub.server.upstream")

_FRESH_HOURS = 60 / 3600
_TIMEOUT = httpx.Timeout(10.0, connect=3.0)
_WHOLE_SECONDS = 60.0
_MAX_FILE = 64 * 1024 * 1024
_KEPT_HOURS = 30 * 24.0
#: sees everything: used to find out whether a name exists here at all
_EVERYBODY = Viewer(token_id=0, name="federation", scopes=frozenset(("read", "admin")))


class Upstream:
    """The hub behind this one."""

    def __init__(self, app: FastAPI, settings: Settings, storage: Storage) -> None:
        self.app = app
        self.address = settings.upstream.rstrip("/")
        self.settings = settings
        self.storage = storage
        self._client: httpx.AsyncClient | None = None
        self._id, self._told = "", False
        self._pulling: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    def sweep(self) -> int:
        """Forget what upstream did not have, and what nobody has asked for in a month; returns how much that was."""
        files, gone = upstream_files, 0
        with self.storage.database.write(durable=False) as connection:
            for old in (
                (files.c.status != 200) & (files.c.fetched_at < now(hours=-_FRESH_HOURS)),
                (files.c.fetched_at < now(hours=-_KEPT_HOURS)) & not_(files.c.path.startswith("/v1/manifests/")),
            ):
                gone += connection.execute(delete(files).where(old)).rowcount
        return gone

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.aclose()

    async def resolve(self, request: Request, viewer: Viewer, ref: str, error: AdapterNotFoundError) -> Response | None:
        """Upstream's answer to a resolve request that found nothing here; None where it must not be asked."""
        query, route = request.query_params, await self._route(request)
        if not route:
            return None
        allowed = await run_in_threadpool(self._may_ask, ref, query.get("model"), query.get("type"))
        if not allowed:
            return None
        names = ("ref", "model", "config", "type", "version")
        sent = {name: query[name] for name in names if name in query}
        sent["ref"] = ref.partition("::")[2] or ref  # the hub's name is ours, not upstream's
        status, body = await self._file(f"/v1/resolve?{urlencode(sent)}", route)
        document = _json(body)
        if status != 200:
            raise error_from_problem(document) if isinstance(document, dict) else error
        if not isinstance(document, dict) or fold(str(document.get("namespace", ""))) in await run_in_threadpool(
            self._owned
        ):
            return None
        headers = {"Cache-Control": "no-cache", "AdapterHub-Upstream": self.address}
        return Response(body, media_type="application/json", headers=headers)

    async def index(self, request: Request, path: str, own: bytes | None) -> bytes | None:
        """An index file of both hubs: everything that is ours, and of upstream's what does not touch ours."""
        kind, route = path.partition("/")[0], await self._route(request)
        # only what can be an index file: our token must not fetch whatever a path with dots leads to
        if not route or not is_index_path(path) or not await run_in_threadpool(self._may_ask_index, kind, path):
            return own
        try:
            status, body = await self._file(f"/index/{quote(path, safe='/')}", route)
        except HubConnectionError:
            if own is not None:
                return own
            raise
        if status != 200:
            return own
        return merge_index(kind, own, body, await run_in_threadpool(self._owned))

    async def manifest(self, request: Request, digest: str) -> bytes | None:
        """A manifest of upstream's, checked; None where it has none."""
        route = await self._route(request)
        if not route or await run_in_threadpool(self._is_known_here, digest):
            return None
        status, body = await self._file(f"/v1/manifests/{digest}", route, for_ever=True)
        if status != 200:
            return None
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            await run_in_threadpool(self._forget, f"/v1/manifests/{digest}")
            raise IntegrityError(f"{self.address} sent other bytes than the manifest {digest}.")
        manifest = Manifest.from_bytes(body)
        if fold(manifest.namespace) in await run_in_threadpool(self._owned):
            return None
        await run_in_threadpool(self._note_files, manifest)
        return body

    async def blob(self, request: Request, digest: str) -> int | None:
        """Bring a blob of upstream's here, whole and checked; returns its size, None where upstream has none."""
        route = await self._route(request)
        if not route:
            return None
        # who came another way waits for nobody: two hubs that ask each other at once would wait for one another
        pulling = (digest, route)
        async with self._pulling[pulling]:
            try:
                listed, here = await run_in_threadpool(self._listed_blob, digest)
                if listed is not None and here:
                    return listed
                if listed is None and await run_in_threadpool(self._is_known_here, digest):
                    return None
                return await self._pull(digest, route)
            finally:
                if not self._pulling[pulling]._waiters:
                    self._pulling.pop(pulling, None)

    async def _route(self, request: Request) -> str:
        """The `Via` to ask upstream with; empty where it must not be asked, since it leads back here."""
        if not self._id:
            self._id = await run_in_threadpool(self._own_id)
        before = hubs_before(request.headers.getlist("via"))
        if self._id not in before:
            return via((*before, self._id))
        if not self._told:
            log.warning("upstream leads back to this hub", extra={"fields": {"via": via(before)}})
        self._told = True  # once: hubs may well complete each other
        return ""

    async def _pull(self, digest: str, route: str) -> int | None:
        client = self._http()
        try:
            async with client.stream("GET", f"/v1/blobs/{digest}", headers={"Via": route}) as answer:
                if answer.status_code == 404:
                    return None
                if answer.status_code != 200:
                    raise HubConnectionError(f"{self.address} answered with status {answer.status_code}.")
                part, failure = await self.storage.blobs.write_part(
                    f"upstream-{digest[7:23]}", 0, _pieces(answer), self.settings.max_file_bytes
                )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if failure is not None or part.digest != digest:
            await run_in_threadpool(self.storage.blobs.discard, [part.path])
            if isinstance(failure, httpx.HTTPError):
                raise self._unreachable(failure)
            raise IntegrityError(f"{self.address} sent other bytes than the blob {digest}.")

        def keep() -> None:
            self.storage.blobs.adopt(part.path, digest)
            with self.storage.database.write(durable=False) as connection:
                row = {"digest": digest, "size": part.size, "fetched_at": now()}
                if not insert_missing(connection, upstream_blobs, row):
                    connection.execute(update(upstream_blobs).where(upstream_blobs.c.digest == digest).values(**row))

        await run_in_threadpool(keep)
        return part.size

    async def _file(self, path: str, route: str, *, for_ever: bool = False) -> tuple[int, bytes]:
        """Status and body of something small, from what is kept if that is fresh, or if upstream does not answer."""
        key = hashlib.sha256(path.encode()).hexdigest()
        kept = await run_in_threadpool(self._kept_file, key)
        if kept is not None and (for_ever or kept.fetched_at > now(hours=-_FRESH_HOURS)):
            return int(kept.status), bytes(kept.body)
        headers = {"Via": route} | ({"If-None-Match": kept.etag} if kept is not None and kept.etag else {})
        try:
            answer, content = await self._get(path, headers)
        except (httpx.HTTPError, HubConnectionError, TimeoutError) as error:
            if kept is not None:
                log.warning("upstream does not answer, using what is kept", extra={"fields": {"path": path}})
                return int(kept.status), bytes(kept.body)
            raise error if isinstance(error, HubConnectionError) else self._unreachable(error) from error
        if answer.status_code == 304 and kept is not None:
            status, body, etag = int(kept.status), bytes(kept.body), kept.etag
        else:
            status, body, etag = answer.status_code, content, answer.headers.get("etag", "")
        worth_keeping = status == 200 if for_ever else route == via((self._id,))
        if worth_keeping:
            await run_in_threadpool(self._keep_file, key, path, status, etag, body)
        return status, body

    async def _get(self, path: str, headers: dict[str, str]) -> tuple[httpx.Response, bytes]:
        """An answer and its body, if upstream answers, and with no more than it should."""
        body = bytearray()
        async with asyncio.timeout(_WHOLE_SECONDS), self._http().stream("GET", path, headers=headers) as answer:
            if answer.status_code >= 500 or answer.status_code in (401, 403, 429):
                raise HubConnectionError(f"The upstream hub {self.address} answered with status {answer.status_code}.")
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MAX_FILE:
                    raise HubConnectionError(f"The upstream hub {self.address} sends more than {_MAX_FILE} bytes.")
        return answer, bytes(body)

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            token = self.settings.upstream_token
            headers = {"User-Agent": "adapterhub-server", **({"Authorization": f"Bearer {token}"} if token else {})}
            self._client = httpx.AsyncClient(
                base_url=self.address, headers=headers, timeout=_TIMEOUT, follow_redirects=False, trust_env=False
            )
        return self._client

    def _unreachable(self, error: Exception) -> HubConnectionError:
        return HubConnectionError(
            f"It is not here, and the upstream hub {self.address} does not answer ({type(error).__name__}).",
            hint="Try again later.",
        )

    def _may_ask(self, ref: str, model: str | None, type: str | None) -> bool:
        """Whether nothing here, private things included, goes by this reference."""
        reference = parse_reference(ref)
        with self.storage.database.read() as connection:
            if reference.namespace is not None and fold(reference.namespace) in _owned(connection):
                return False
            try:
                resolve_reference(connection, reference, _EVERYBODY, model_name=model)
            except AdapterNotFoundError:
                return True
            except AdapterHubError:
                return False
        return False

    def _may_ask_index(self, kind: str, path: str) -> bool:
        with self.storage.database.read() as connection:
            if kind == "ns":
                return path.split("/")[2:3] != [] and path.split("/")[2] not in _owned(connection)
            page = path.removesuffix(".jsonl").split("/")[2:]
            if page and page[0] in _owned(connection):
                return False
            if kind in ("k", "a"):
                bucket = path[2:6]
                private = (
                    select(versions.c.id)
                    .join(adapters, adapters.c.id == versions.c.adapter_id)
                    .where(versions.c.bucket == bucket, adapters.c.private == true())
                )
                return connection.execute(private.limit(1)).first() is None
        return True

    def _own_id(self) -> str:
        with self.storage.database.read() as connection:
            return hub_text(connection, "id")

    def _owned(self) -> set[str]:
        with self.storage.database.read() as connection:
            return _owned(connection)

    def _is_known_here(self, digest: str) -> bool:
        """Whether bytes or a manifest of this digest are ours; if they are hidden, they stay so."""
        with self.storage.database.read() as connection:
            own = connection.execute(select(blobs.c.digest).where(blobs.c.digest == digest)).first()
            return own is not None or (
                connection.execute(select(versions.c.id).where(versions.c.digest == digest).limit(1)).first()
                is not None
            )

    def _listed_blob(self, digest: str) -> tuple[int | None, bool]:
        """The size of a blob that one of upstream's versions has, and whether its bytes are in the store."""
        with self.storage.database.read() as connection:
            query = select(upstream_blobs.c.size).where(upstream_blobs.c.digest == digest)
            size = connection.execute(query).scalar_one_or_none()
        return (None, False) if size is None else (int(size), self.storage.blobs.size(digest) == size)

    def _note_files(self, manifest: Manifest) -> None:
        """These bytes are upstream's: whoever may see the manifest may have them, also where the same bytes are ours."""
        with self.storage.database.read() as connection:
            digests = {file.digest for file in manifest.files}
            query = select(upstream_blobs.c.digest).where(upstream_blobs.c.digest.in_(digests))
            missing = digests - set(connection.execute(query).scalars())
        if missing:
            with self.storage.database.write(durable=False) as connection:
                for file in manifest.files:
                    row = {"digest": file.digest, "size": file.size, "fetched_at": now()}
                    insert_missing(connection, upstream_blobs, row)

    def _kept_file(self, key: str) -> Any:
        with self.storage.database.read() as connection:
            return connection.execute(select(upstream_files).where(upstream_files.c.key == key)).first()

    def _keep_file(self, key: str, path: str, status: int, etag: str, body: bytes) -> None:
        row = {"path": path, "status": status, "etag": etag, "body": body, "fetched_at": now()}
        with self.storage.database.write(durable=False) as connection:
            if not insert_missing(connection, upstream_files, {"key": key, **row}):
                connection.execute(update(upstream_files).where(upstream_files.c.key == key).values(**row))

    def _forget(self, path: str) -> None:
        key = hashlib.sha256(path.encode()).hexdigest()
        with self.storage.database.write(durable=False) as connection:
            connection.execute(delete(upstream_files).where(upstream_files.c.key == key))


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for piece in answer.aiter_raw(1024 * 1024):
        yield piece


def _owned(connection: Connection) -> set[str]:
    """Folded names of all organisations there are or were."""
    found: Iterable[str] = connection.execute(select(organisations.c.key)).scalars()
    return set(found)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
