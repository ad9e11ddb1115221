"""What routes ask for: the storage, the settings, and who is asking."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from adapterhub.server.accounts.tokens import viewer_of
from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage

__all__ = ["Bearer", "SettingsOf", "StorageOf", "ViewerOf", "public_url"]

#: only documents the scheme in OpenAPI; the header itself is read by `viewer`
Bearer = HTTPBearer(
    auto_error=False, bearerFormat="ahub_…", description="A token made by `adapterhub-server token create`."
)


async def storage(request: Request) -> Storage:
    """The stores of this hub."""
    found: Storage = request.app.state.storage
    return found


async def settings(request: Request) -> Settings:
    """The settings of this hub."""
    found: Settings = request.app.state.settings
    return found


async def viewer(request: Request) -> Viewer:
    """Who is asking, by the `Authorization` header. Raises AuthenticationError for a token that is not good."""
    header = request.headers.get("authorization")
    found = await run_in_threadpool(viewer_of, request.app.state.storage.database, header) if header else ANONYMOUS
    request.state.viewer = found
    return found


def public_url(request: Request) -> str:
    """The hub's address as users see it, without a slash at the end."""
    given: str = request.app.state.settings.public_url
    return (given or str(request.base_url)).rstrip("/")


StorageOf = Annotated[Storage, Depends(storage)]
SettingsOf = Annotated[Settings, Depends(settings)]
ViewerOf = Annotated[Viewer, Depends(viewer)]
