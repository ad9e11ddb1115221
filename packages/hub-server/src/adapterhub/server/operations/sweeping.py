"""Clearing away what was left unfinished."""

from __future__ import annotations

import asyncio
import logging

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from adapterhub.server.publishing.uploads import sweep

__all__ = ["sweep_uploads"]

log = logging.getLogger("adapterhub.server.sweeping")

_EVERY_SECONDS = 600.0


async def sweep_uploads(app: FastAPI) -> None:
    """Background task: forget uploads whose time is over."""
    while True:
        try:
            gone = await run_in_threadpool(sweep, app.state.storage)
            if gone:
                log.info("uploads dropped", extra={"fields": {"count": gone}})
        except Exception:
            log.exception("uploads could not be swept")
        await asyncio.sleep(_EVERY_SECONDS)
