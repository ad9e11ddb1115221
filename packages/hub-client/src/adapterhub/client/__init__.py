"""Find, resolve, download, verify and publish adapters. Names are loaded on first use: the import itself costs nothing."""

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


if TYPE_CHECKING:  # "as" says to type checkers that the name is meant for users
    from adapterhub.client.asynchronous import AsyncHubClient as AsyncHubClient
    from adapterhub.client.cache import Cache as Cache
    from adapterhub.client.client import HubClient as HubClient
    from adapterhub.client.functions import (
        download as download,
        get_adapter_info as get_adapter_info,
        list_adapters as list_adapters,
        lock as lock,
        publish as publish,
        resolve as resolve,
        sync as sync,
    )
    from adapterhub.client.info import AdapterInfo as AdapterInfo
    from adapterhub.client.lockfile import Locked as Locked, Lockfile as Lockfile
    from adapterhub.client.publishing import PublishResult as PublishResult
    from adapterhub.client.settings import Hub as Hub, Settings as Settings, load_settings as load_settings
    from adapterhub.spec.errors import (
        AdapterHubError as AdapterHubError,
        AdapterNotFoundError as AdapterNotFoundError,
        AmbiguousAdapterError as AmbiguousAdapterError,
        AuthenticationError as AuthenticationError,
        HubConnectionError as HubConnectionError,
        IntegrityError as IntegrityError,
        InvalidReferenceError as InvalidReferenceError,
        ModelMismatchError as ModelMismatchError,
        OfflineError as OfflineError,
        PolicyError as PolicyError,
        PublishError as PublishError,
        QuotaExceededError as QuotaExceededError,
        StorageError as StorageError,
        ValidationFailedError as ValidationFailedError,
        VersionExistsError as VersionExistsError,
        VersionNotFoundError as VersionNotFoundError,
    )
    from adapterhub.spec.resolution import Resolution as Resolution
