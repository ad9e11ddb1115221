"""How what a user writes ("sentiment/sst-2@ukp", "out/sst-2", "@ns/name:1") becomes a folder on this machine.

A folder is taken as it is. Everything else goes to the installed resolvers: entry points of the group
`adapterhub.resolvers`, of which `adapterhub-client` brings the first. A resolver is a callable

    resolve_reference(reference, *, model_name=None, config=None, version=None, source=None) -> pathlib.Path

that returns a verified folder or raises an `AdapterHubError`. Only the keywords that were given are passed on, so a
resolver may know fewer of them and later releases may add some.

The way back is the group `adapterhub.publishers`: callables `publish(folder, reference, *, version=None, **metadata)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError

__all__ = ["GROUP", "PUBLISHERS", "installed_publisher", "installed_resolvers", "looks_like_path", "resolve_to_folder"]

#: The entry-point groups resolvers and publishers are announced under.
GROUP = "adapterhub.resolvers"
PUBLISHERS = "adapterhub.publishers"

#: Any of these makes a folder worth reading as an adapter, a head, a fusion or a setup.
_MARKERS = (
    "adapter_config.json",
    "head_config.json",
    "adapter_fusion_config.json",
    "fusion_config.json",
    "adapter_setup.json",
)


def resolve_to_folder(
    reference: str | os.PathLike[str],
    *,
    model_name: str | None = None,
    config: object | None = None,
    version: str | None = None,
    source: str | None = None,
    **more: Any,
) -> Path:
    """The folder of the adapter `reference` names.

    Args:
        reference: a folder, or a reference for the installed resolvers.
        model_name: name of the base model the adapter is for, as on its hub.
        config: wanted architecture: preset name, dict or config object.
        version: wanted version.
        source: "ah" or "hf"; given, local folders are not looked at.
        more: further keywords for the resolver, passed on where they are not None.

    Raises:
        AdapterNotFoundError: no such folder, and no resolver is installed that could look further.
        AdapterHubError: what the resolver raises.
    """
    text = os.fspath(reference)
    if source is None:
        folder = Path(text).expanduser()
        if folder.is_dir():
            return _checked(folder)
        if isinstance(reference, os.PathLike) or looks_like_path(text):
            raise AdapterNotFoundError(
                f"There is no folder {text!r}.",
                hint="Give an existing adapter folder, or a reference such as sentiment/sst-2@ukp.",
            )
    resolvers = installed_resolvers()
    if not resolvers:
        raise AdapterNotFoundError(
            f"{text!r} is not a folder here, and nothing is installed that finds adapters on a hub.",
            hint="Run `pip install adapterhub-client` to load adapters by reference, or give a folder.",
        )
    wanted = {"model_name": model_name, "config": config, "version": version, "source": source, **more}
    given = {key: value for key, value in wanted.items() if value is not None}
    missed: AdapterNotFoundError | None = None
    for resolver in resolvers:
        try:
            return _checked(Path(resolver(text, **given)))
        except AdapterNotFoundError as error:
            missed = missed or error
    assert missed is not None
    raise missed


def installed_resolvers() -> list[Callable[..., Any]]:
    """The resolvers of this environment, in the order of their entry points' names.

    Raises:
        AdapterHubError: an announced resolver cannot be imported.
    """
    return [_load(point) for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]


def installed_publisher() -> Callable[..., Any]:
    """The publisher of this environment; the first by the names of their entry points.

    Raises:
        AdapterHubError: none is installed, or it cannot be imported.
    """
    points = sorted(entry_points(group=PUBLISHERS), key=lambda point: point.name)
    if not points:
        raise AdapterHubError(
            "Nothing is installed that publishes adapters.", hint="Run `pip install adapterhub-client`, then log in."
        )
    return _load(points[0])


def looks_like_path(text: str) -> bool:
    """Whether `text` can only be meant as a path: absolute, `~`, or starting with a dot."""
    return text.startswith(("/", "~", "./", "../", ".\\", "..\\")) or text in (".", "..") or Path(text).is_absolute()


def _load(point: EntryPoint) -> Callable[..., Any]:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise AdapterHubError(
            f"The resolver {point.name!r} ({point.value}) is announced but cannot be imported: {error}.",
            hint="Reinstall the package that brings it, for instance `pip install --force-reinstall adapterhub-client`.",
        ) from error


def _checked(folder: Path) -> Path:
    if any((folder / marker).is_file() for marker in _MARKERS):
        return folder
    raise AdapterNotFoundError(
        f"The folder {str(folder)!r} holds no adapter.",
        hint=f"An adapter folder has one of {', '.join(_MARKERS[:3])} in it.",
    )
