"""Find, resolve, download, verify and publish adapters. Names are loaded on first use: the import itself costs nothing."""

# ruff: noqa: F401 - names under TYPE_CHECKING are exported

from __future__ import annotations

import importlib

from adapterhub.client.__about__ import __version__

TYPE_CHECKING = False  # not from typing: its import would be most of ours

#: public name → module that defines it
_HOME: dict[str, str] = {
    "HubClient": "adapterhub.client.client",
    **dict.fromkeys(
        ("download", "get_adapter_info", "list_adapters", "lock", "publish", "resolve", "sync"),
        "adapterhub.client.functions",
    ),
    "AsyncHubClient": "adapterhub.client.asynchronous",
    "AdapterInfo": "adapterhub.client.info",
    "PublishResult": "adapterhub.client.publishing",
    "Cache": "adapterhub.client.cache",
    **dict.fromkeys(("Hub", "Settings", "load_settings"), "adapterhub.client.settings"),
    **dict.fromkeys(("Lockfile", "Locked"), "adapterhub.client.lockfile"),
    "Resolution": "adapterhub.spec.resolution",
    **dict.fromkeys(
        (
            "AdapterHubError",
            "AdapterNotFoundError",
            "AmbiguousAdapterError",
            "AuthenticationError",
            "HubConnectionError",
            "IntegrityError",
            "InvalidReferenceError",
            "ModelMismatchError",
            "OfflineError",
            "PolicyError",
            "PublishError",
            "QuotaExceededError",
            "StorageError",
            "ValidationFailedError",
            "VersionExistsError",
            "VersionNotFoundError",
        ),
        "adapterhub.spec.errors",
    ),
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - names of strings, computed


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


if TYPE_CHECKING:
    from adapterhub.client.asynchronous import AsyncHubClient
    from adapterhub.client.cache import Cache
    from adapterhub.client.client import HubClient
    from adapterhub.client.functions import (
        download,
        get_adapter_info,
        list_adapters,
        lock,
        publish,
        resolve,
        sync,
    )
    from adapterhub.client.info import AdapterInfo
    from adapterhub.client.lockfile import Locked, Lockfile
    from adapterhub.client.publishing import PublishResult
    from adapterhub.client.settings import Hub, Settings, load_settings
