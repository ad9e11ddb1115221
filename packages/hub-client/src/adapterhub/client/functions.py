"""The client's methods as functions: each makes a client from the settings of the moment, so a changed environment counts at
once.

    from adapterhub.client import download
    folder = download("sentiment/sst-2@ukp", model_name="bert-base-uncased")
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.client import HubClient
from adapterhub.client.settings import DEFAULT_HUB
from adapterhub.spec.resolution import Resolution

if TYPE_CHECKING:
    from adapterhub.client.info import AdapterInfo
    from adapterhub.client.lockfile import Lockfile
    from adapterhub.client.publishing import PublishResult

__all__ = ["download", "get_adapter_info", "list_adapters", "lock", "publish", "resolve", "sync"]


def resolve(
    reference: str, *, model_name: str | None = None, config: Any = None, version: str | None = None, **more: Any
) -> Resolution:
    """The one version `reference` stands for; see `HubClient.resolve`."""
    with _client(more) as client:
        return client.resolve(reference, model_name=model_name, config=config, version=version, **more)


def download(
    reference: str | Resolution,
    *,
    model_name: str | None = None,
    config: Any = None,
    version: str | None = None,
    **more: Any,
) -> Path:
    """A folder with the adapter's verified files; see `HubClient.download`."""
    with _client(more) as client:
        return client.download(reference, model_name=model_name, config=config, version=version, **more)


def list_adapters(source: str | None = DEFAULT_HUB, model_name: str | None = None, **more: Any) -> list[AdapterInfo]:
    """Adapters of the hub (`ah`), of the Hugging Face hub (`hf`) or of both (None); see `HubClient.list_adapters`."""
    with _client(more) as client:
        return client.list_adapters(source, model_name, **more)


def get_adapter_info(
    reference: str, *, model_name: str | None = None, source: str | None = None, **more: Any
) -> AdapterInfo:
    """What is known about one adapter; see `HubClient.get_adapter_info`."""
    with _client(more) as client:
        return client.get_adapter_info(reference, model_name=model_name, source=source, **more)


def publish(
    folder: str | os.PathLike[str], reference: str, *, version: str | None = None, **more: Any
) -> PublishResult:
    """Publish an adapter folder; see `HubClient.publish`."""
    with _client(more) as client:
        return client.publish(folder, reference, version=version, **more)


def lock(references: Iterable[str] = (), *, model_name: str | None = None, **more: Any) -> Lockfile:
    """Write down what references stand for now; see `HubClient.lock`."""
    with _client(more) as client:
        return client.lock(references, model_name=model_name, **more)


def sync(path: str | os.PathLike[str] | None = None, **more: Any) -> dict[str, Path]:
    """Download everything the lock file lists; see `HubClient.sync`."""
    with _client(more) as client:
        return client.sync(path, **more)


def _client(more: dict[str, Any]) -> HubClient:
    """A client made of those keyword arguments that are the client's; they are taken out of `more`."""
    mine = ("endpoint", "token", "cache_dir", "offline", "lockfile", "locked", "limits", "settings", "notice")
    return HubClient(**{name: more.pop(name) for name in mine if name in more})
