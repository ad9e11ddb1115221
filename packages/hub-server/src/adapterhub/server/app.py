"""The application: routers of every domain put together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import threading
from collections.abc import AsyncIterator

from anyio import CapacityLimiter
from fastapi import FastAPI

from adapterhub.server.__about__ import __version__
from adapterhub.server.federation.upstream import Upstream
from adapterhub.server.moderation.webhooks import deliver_webhooks
from adapterhub.server.moderation.weights import look_at_weights
from adapterhub.server.operations.downloads import Downloads, count_downloads
from adapterhub.server.operations.requests import RequestLayer, configure_logging
from adapterhub.server.operations.sweeping import sweep
from adapterhub.server.problems import PROBLEM_RESPONSES, add_problem_handlers
from adapterhub.server.publishing.validation import AT_ONCE
from adapterhub.server.resolving.answers import Answers
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage

__all__ = ["create_app", "from_environment"]

#: modules with a `router`, in the order their routes are tried; pages come last
ROUTERS = (
    "adapterhub.server.operations.routes",
    "adapterhub.server.resolving.routes",
    "adapterhub.server.publishing.routes",
    "adapterhub.server.accounts.routes",
    "adapterhub.server.accounts.device_routes",
    "adapterhub.server.moderation.routes",
    "adapterhub.server.moderation.report_routes",
    "adapterhub.server.catalogue.routes",
    "adapterhub.server.web.routes",
)


def create_app(settings: Settings) -> FastAPI:
    """The hub as an ASGI application. Opens the stores at once, so that a wrong setting fails before a port is bound.

    Raises:
        StorageError: a store that cannot be used.
    """
    storage = open_storage(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gc.freeze()  # what is loaded now stays: looking through it again and again would hold up answers for 50 ms
        # exchanges wait for issuers, which may be slow: with threads of their own, so that nothing else waits behind them
        app.state.exchanging = CapacityLimiter(8)
        tasks = [asyncio.create_task(work(app)) for work in app.state.background]
        try:
            yield
        finally:
            app.state.stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            app.state.downloads.flush()
            if app.state.upstream is not None:
                await app.state.upstream.close()
            storage.close()

    app = FastAPI(
        title="AdapterHub",
        summary="A registry for adapters",
        description="Find, publish and fetch adapters. Errors are RFC 9457 problem documents with a stable `code`.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses=PROBLEM_RESPONSES,
    )
    app.state.settings = settings
    app.state.storage = storage
    app.state.stopping = False
    app.state.answers = Answers(storage.database)
    app.state.upstream = Upstream(app, settings, storage) if settings.upstream else None
    app.state.downloads = Downloads(storage)
    app.state.validating = threading.Semaphore(AT_ONCE)
    app.state.background = [count_downloads, deliver_webhooks, sweep, look_at_weights]
    add_problem_handlers(app)
    for name in ROUTERS:
        module = importlib.import_module(name)
        app.include_router(module.router)
        if hasattr(module, "install"):
            module.install(app)
    app.add_middleware(RequestLayer, settings=settings)
    return app


def from_environment() -> FastAPI:
    """The application for worker processes, which get their settings from the environment."""
    settings = Settings.read()
    configure_logging(settings)
    return create_app(settings)
