"""The same client for `async` code: each call runs in a thread, so an event loop never waits for disk or network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from adapterhub.client.client import HubClient

__all__ = ["AsyncHubClient"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _in_a_thread(
    method: Callable[Concatenate[HubClient, Arguments], Result],
) -> Callable[Concatenate[AsyncHubClient, Arguments], Coroutine[Any, Any, Result]]:
    """`method` with `await`; the same arguments, result and errors."""

    @wraps(method)
    async def call(self: AsyncHubClient, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return await asyncio.to_thread(method, self.client, *arguments, **named)

    return call


class AsyncHubClient:
    """`HubClient` with `await`. Takes the same arguments; `asyncio.gather` runs calls side by side.

    async with AsyncHubClient() as hub:
        folders = await asyncio.gather(*(hub.download(name, model_name=model) for name in names))
    """

    def __init__(self, **arguments: Any) -> None:
        self.client = HubClient(**arguments)

    resolve = _in_a_thread(HubClient.resolve)
    download = _in_a_thread(HubClient.download)
    list_adapters = _in_a_thread(HubClient.list_adapters)
    get_adapter_info = _in_a_thread(HubClient.get_adapter_info)
    publish = _in_a_thread(HubClient.publish)
    yank = _in_a_thread(HubClient.yank)
    lock = _in_a_thread(HubClient.lock)
    sync = _in_a_thread(HubClient.sync)
    close = _in_a_thread(HubClient.close)

    async def __aenter__(self) -> AsyncHubClient:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.close()
