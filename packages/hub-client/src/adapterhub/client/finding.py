"""From a reference to one version, over the index files of one hub: which copies will do, when to ask again, what to say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from adapterhub.client.settings import Hub, Settings, fold_name
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AmbiguousAdapterError,
    HubConnectionError,
    IntegrityError,
    InvalidManifestError,
    ModelMismatchError,
    PolicyError,
    VersionNotFoundError,
    error_from_problem,
)
from adapterhub.spec.index import IndexEntry, lookup
from adapterhub.spec.reference import AdapterReference, format_reference
from adapterhub.spec.resolution import Resolution, resolve as resolve_purely

if TYPE_CHECKING:
    from adapterhub.client.index import IndexFiles
    from adapterhub.client.sources import Source

__all__ = ["Finder", "config_as_json"]

#: what a look-up in an outdated copy of the index may wrongly end in
_FOUND_WRONG = (
    AdapterNotFoundError,
    AmbiguousAdapterError,
    VersionNotFoundError,
    ModelMismatchError,
    IntegrityError,
    InvalidManifestError,
)


class Finder:
    """Resolves references of one hub.

    Args:
        settings: for the pins, and whether to stay offline.
        index: the hub's index files.
        source: the hub itself, asked for what only it knows when nothing is found.
    """

    def __init__(self, settings: Settings, index: IndexFiles, source: Source) -> None:
        self.settings, self.index, self.source = settings, index, source

    def find(
        self, parsed: AdapterReference, asked: Mapping[str, Any], aliases: Mapping[str, str] | None = None
    ) -> Resolution:
        """The version `parsed` stands for.

        Args:
            asked: model_name, config, version and type, as `adapterhub.spec.resolution.resolve` takes them.
            aliases: instead of the hub's table.
        """
        index = self.index
        direct_pin = parsed.name is not None and (asked["version"] or parsed.version) is not None
        if parsed.digest is not None or direct_pin:  # never changes: any copy of the index will do
            try:
                return self.look_up(parsed, asked, aliases, accept_stale=True)
            except _FOUND_WRONG:
                if index.offline:
                    raise
        unasked: set[str] = set()
        try:
            return self.look_up(parsed, asked, aliases, unasked=unasked)
        except _FOUND_WRONG as error:
            if not unasked or index.offline:
                if isinstance(error, AdapterNotFoundError):
                    raise self._explain(error, parsed, asked, aliases) from error
                raise
        # what failed used copies of the index that were not asked for now: perhaps it was published a minute ago
        try:
            return self.look_up(parsed, asked, aliases, refresh=True)
        except AdapterNotFoundError as error:
            raise self._explain(error, parsed, asked, aliases) from error

    def look_up(
        self,
        parsed: AdapterReference,
        asked: Mapping[str, Any],
        aliases: Mapping[str, str] | None,
        *,
        accept_stale: bool = False,
        refresh: bool = False,
        unasked: set[str] | None = None,
    ) -> Resolution:
        """Resolve over the index files the reference needs. An exact match needs no alias table, so it is not fetched."""
        read: dict[str, bytes | None] = {}

        def contents(paths: list[str]) -> dict[str, bytes | None]:
            missing = [path for path in paths if path not in read]
            read.update(self.index.read(missing, accept_stale=accept_stale, refresh=refresh, unasked=unasked))
            return {path: read[path] for path in paths}

        def once(table: Mapping[str, str]) -> Resolution:
            entries, defaults = _drive(parsed, asked, table, contents)
            self._refuse_pinned_elsewhere(entries, self.source.hub)
            return resolve_purely(parsed, entries, aliases=table, defaults=defaults, **asked)

        if aliases is not None:
            return once(aliases)
        if parsed.name is not None:
            return once({})
        try:
            found = once({})
            if found.tier == "exact":
                return found
        except (AdapterNotFoundError, AmbiguousAdapterError, VersionNotFoundError):
            pass  # perhaps an alias; what an exact match says is said again
        return once(self._aliases(contents))

    def _aliases(self, contents: Callable[[list[str]], dict[str, bytes | None]]) -> Mapping[str, str]:
        path = "/index/aliases.json"
        data = contents([path])[path]
        if data is None:  # a hub without a table of its own uses the specification's
            from importlib.resources import files

            data = files("adapterhub.spec").joinpath("data/aliases.json").read_bytes()
        try:
            table = json.loads(data)
            table = table.get("aliases", table)
            return {str(key): value for key, value in table.items() if isinstance(value, str)}
        except (ValueError, AttributeError) as error:
            raise HubConnectionError("The hub's alias table is not a JSON object.") from error

    def _refuse_pinned_elsewhere(self, entries: Iterable[IndexEntry], hub: Hub) -> None:
        pins = self.settings.pins
        if not pins:
            return
        for entry in entries:
            pinned = pins.get(fold_name(entry.namespace))
            if pinned is not None and self.settings.hub(pinned).url != hub.url:
                raise PolicyError(
                    f"The hub {hub.name!r} offers {entry.adapter}, but @{entry.namespace} is pinned to {pinned!r}.",
                    hint=f"Ask for it as {pinned}::{entry.adapter}, or name another publisher.",
                )

    def _explain(
        self,
        error: AdapterNotFoundError,
        parsed: AdapterReference,
        asked: Mapping[str, Any],
        aliases: Mapping[str, str] | None,
    ) -> AdapterHubError:
        """The same refusal with what only the whole catalogue knows: close names, other models that have it. Asks the same
        hub and no other; where it does not answer, the plain refusal stands."""
        source = self.source
        bare = format_reference(dataclasses.replace(parsed, hub=None))
        try:
            if source.offline_capable:
                from adapterhub.spec.resolution import EntryIndex

                index = EntryIndex(source.entries())  # type: ignore[attr-defined]
                resolve_purely(bare, index, aliases=aliases or {}, **asked)
            elif not self.settings.offline and aliases is None:
                return self._explain_remotely(source, bare, asked) or error
        except AdapterNotFoundError as better:
            return better
        except (AdapterHubError, OSError):
            pass
        return error

    def _explain_remotely(self, source: Any, bare: str, asked: Mapping[str, Any]) -> AdapterHubError | None:
        config = config_as_json(asked["config"])
        if config is not None and not isinstance(config, str):
            config = json.dumps(config)
        params = {"ref": bare, "model": asked["model_name"], "config": config, "type": asked["type"]}
        answer = source.resolve_remotely({**params, "version": asked["version"]})
        if answer.status != 404 or "problem+json" not in answer.headers.get("content-type", ""):
            return None
        better = error_from_problem(answer.json())
        return better if isinstance(better, AdapterNotFoundError) else None


def _drive(
    parsed: AdapterReference,
    asked: Mapping[str, Any],
    aliases: Mapping[str, str],
    contents: Callable[[list[str]], Mapping[str, bytes | None]],
) -> tuple[list[IndexEntry], Mapping[tuple[str, str, str], str]]:
    """Run the spec's `lookup`, feeding it the files it asks for."""
    steps = lookup(
        parsed, model_name=asked["model_name"], version=asked["version"], type=asked["type"], aliases=aliases
    )
    answer: Any = None
    while True:
        try:
            paths = steps.send(answer)
        except StopIteration as stop:
            entries, defaults = stop.value
            return list(entries), defaults
        answer = contents(paths)


def config_as_json(config: Any) -> Any:
    """A config as it may stand in a lock file or a query."""
    if config is None or isinstance(config, (str, dict)):
        return config
    expand = getattr(config, "expand", None)
    if callable(expand):
        return expand()
    return dict(config) if isinstance(config, Mapping) else str(config)
