"""The same client for `async` code: each call runs in a thread, so an event loop never waits for disk or network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.client import HubClient
from adapterhub.spec.resolution import Resolution

if TYPE_CHECKING:
    from adapterhub.client.info import AdapterInfo
    from adapterhub.client.lockfile import Lockfile
    from adapterhub.client.publishing import PublishResult

__all__ = ["AsyncHubClient"]


class AsyncHubClient:
    """`HubClient` with `await`. Takes the same arguments; `asyncio.gather` runs calls side by side.

    async with AsyncHubClient() as hub:
        folders = await asyncio.gather(*(hub.download(name, model_name=model) for name in names))
    """

    def __init__(self, **arguments: Any) -> None:
        self.client = HubClient(**arguments)

    async def resolve(self, reference: str, **context: Any) -> Resolution:
        """See `HubClient.resolve`."""
        return await asyncio.to_thread(self.client.resolve, reference, **context)

    async def download(self, reference: str | Resolution, **context: Any) -> Path:
        """See `HubClient.download`."""
        return await asyncio.to_thread(self.client.download, reference, **context)

    async def list_adapters(
        self, source: str | None = "ah", model_name: str | None = None, **filters: Any
    ) -> list[AdapterInfo]:
        """See `HubClient.list_adapters`."""
        return await asyncio.to_thread(self.client.list_adapters, source, model_name, **filters)

    async def get_adapter_info(self, reference: str, **context: Any) -> AdapterInfo:
        """See `HubClient.get_adapter_info`."""
        return await asyncio.to_thread(self.client.get_adapter_info, reference, **context)

    async def publish(self, folder: str | os.PathLike[str], reference: str, **arguments: Any) -> PublishResult:
        """See `HubClient.publish`."""
        return await asyncio.to_thread(self.client.publish, folder, reference, **arguments)

    async def lock(self, references: Iterable[str] = (), **context: Any) -> Lockfile:
        """See `HubClient.lock`."""
        return await asyncio.to_thread(self.client.lock, references, **context)

    async def sync(self, path: str | os.PathLike[str] | None = None, **arguments: Any) -> dict[str, Path]:
        """See `HubClient.sync`."""
        return await asyncio.to_thread(self.client.sync, path, **arguments)

    async def close(self) -> None:
        """End all connections."""
        await asyncio.to_thread(self.client.close)

    async def __aenter__(self) -> AsyncHubClient:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.close()
