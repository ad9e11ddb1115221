"""Download counts that mean something: completed downloads of weights, at most one a day for each client and adapter.

Counted is an answer whose last byte is the last byte of an adapter's weights and that was sent to its end. HEAD, 304,
manifests, cards and ranges that stop earlier count nothing. Who was counted is kept for a day, as a keyed hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import logging
import threading
from functools import lru_cache

from fastapi import FastAPI, Request
from sqlalchemy import delete, insert, select, update
from starlette.concurrency import run_in_threadpool

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.operations.metrics import DOWNLOADS
from adapterhub.server.operations.requests import client_address
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import hub_text
from adapterhub.server.storage.tables import adapters, download_marks, downloads, version_files, versions

__all__ = ["Downloads", "count_downloads"]

log = logging.getLogger("adapterhub.server.downloads")

_FLUSH_SECONDS = 2.0


class _NotPublished(Exception):
    pass


class Downloads:
    """Gathers completed downloads and writes them down in batches."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: set[tuple[datetime.date, str, str]] = set()
        self._lock = threading.Lock()
        with storage.database.read() as connection:
            self._key = hub_text(connection, "id").encode()
        self._adapter_of = lru_cache(8192)(self._find_adapter)

    def completed(self, request: Request, viewer: Viewer, digest: str) -> None:
        """Note that a client got the last byte of a blob."""
        who = (
            f"token {viewer.token_id}" if viewer.token_id else client_address(request.scope, request.app.state.settings)
        )
        with self._lock:
            self._waiting.add((datetime.datetime.now(datetime.UTC).date(), who, digest))

    def flush(self) -> int:
        """Write what was gathered; returns how many downloads were counted. What cannot be written now is kept for later."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        try:
            total = self._count(waiting)
        except Exception:
            with self._lock:
                self._waiting |= waiting
            raise
        DOWNLOADS.inc(total)
        return total

    def _count(self, waiting: set[tuple[datetime.date, str, str]]) -> int:
        wanted = set()
        for day, who, digest in waiting:
            with contextlib.suppress(_NotPublished):
                wanted.add((day, who, self._adapter_of(digest)))
        if not wanted:
            return 0
        counted: dict[tuple[datetime.date, int], int] = {}
        with self._storage.database.change(durable=False) as connection:  # replicas count the same adapters
            for day, who, adapter in sorted(wanted):
                mark = hashlib.blake2b(f"{day} {who} {adapter}".encode(), key=self._key, digest_size=16).hexdigest()
                if insert_missing(connection, download_marks, {"day": day, "mark": mark}):
                    counted[day, adapter] = counted.get((day, adapter), 0) + 1
            for (day, adapter), number in counted.items():
                here = (downloads.c.adapter_id == adapter) & (downloads.c.day == day)
                if not connection.execute(
                    update(downloads).where(here).values(count=downloads.c.count + number)
                ).rowcount:
                    connection.execute(insert(downloads).values(adapter_id=adapter, day=day, count=number))
                connection.execute(
                    update(adapters).where(adapters.c.id == adapter).values(downloads=adapters.c.downloads + number)
                )
            project(connection, sorted({adapter for _, adapter in counted}))
            yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
            connection.execute(delete(download_marks).where(download_marks.c.day < yesterday))
        return sum(counted.values())

    def _find_adapter(self, digest: str) -> int:
        """The adapter whose weights a blob is; for bytes that several have, the first to publish them.

        Raises:
            _NotPublished: there is none (yet): raised, so that it is not kept.
        """
        with self._storage.database.read() as connection:
            found = connection.execute(
                select(versions.c.adapter_id)
                .join(version_files, version_files.c.version_id == versions.c.id)
                .where(
                    version_files.c.digest == digest,
                    version_files.c.path.endswith(".safetensors"),
                    version_files.c.path.not_like("head%"),
                    versions.c.state == "published",
                )
                .order_by(versions.c.id)
                .limit(1)
            ).scalar_one_or_none()
        if found is None:
            raise _NotPublished
        return int(found)


async def count_downloads(app: FastAPI) -> None:
    """Background task: write the counts every few seconds."""
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        try:
            await run_in_threadpool(app.state.downloads.flush)
        except Exception:
            log.exception("downloads could not be counted")
