"""Clearing away what was left unfinished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from adapterhub.server.moderation.webhooks import sweep_deliveries
from adapterhub.server.publishing.uploads import sweep_uploads

__all__ = ["sweep"]

log = logging.getLogger("adapterhub.server.sweeping")

_EVERY_SECONDS = 600.0


async def sweep(app: FastAPI) -> None:
    """Background task: forget uploads whose time is over, deliveries long done, and what upstream did not have."""
    works: dict[str, Callable[[], int]] = {
        "uploads": partial(sweep_uploads, app.state.storage),
        "deliveries": partial(sweep_deliveries, app.state.storage),
    }
    if app.state.upstream is not None:
        works["answers of upstream"] = app.state.upstream.sweep
    while True:
        for what, work in works.items():
            try:
                if gone := await run_in_threadpool(work):
                    log.info("swept", extra={"fields": {"what": what, "count": gone}})
            except Exception:
                log.exception(f"{what} could not be swept")
        await asyncio.sleep(_EVERY_SECONDS)
