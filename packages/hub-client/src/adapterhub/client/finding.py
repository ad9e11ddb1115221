"""From a reference to one version, over the index files of one hub: which copies will do, when to ask again, what to say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from adapterhub.client.settings import Hub, Settings
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AmbiguousAdapterError,
    IntegrityError,
    InvalidManifestError,
    ModelMismatchError,
    VersionNotFoundError,
    error_from_problem,
)
from adapterhub.spec.lookup import Lookup, look_up
from adapterhub.spec.reference import AdapterReference, format_reference
from adapterhub.spec.resolution import Resolution, resolve as resolve_purely

if TYPE_CHECKING:
    from adapterhub.client.index import IndexFiles
    from adapterhub.client.sources import Source

__all__ = ["Finder", "ListedLaterError", "config_as_json"]

#: what a look-up in an outdated copy of the index may wrongly end in
_FOUND_WRONG = (
    AdapterNotFoundError,
    AmbiguousAdapterError,
    VersionNotFoundError,
    ModelMismatchError,
    IntegrityError,
    InvalidManifestError,
)


class ListedLaterError(AmbiguousAdapterError):
    """Ambiguous for certain, by a part of the index; `candidates` reads the rest when it is looked at for the first time.

    Args:
        error: what is known.
        candidates: reads them all.
    """

    def __init__(self, error: AmbiguousAdapterError, candidates: Callable[[], list[Any]]) -> None:
        super().__init__(error.message, hint=error.hint, suggestions=error.suggestions, details=error.details)
        self.known = list(error.candidates)
        self._read: Callable[[], list[Any]] | None = candidates

    @property
    def candidates(self) -> list[Any]:
        """Every adapter the reference may mean.

        Raises:
            HubConnectionError, OfflineError: they cannot be read now; `known` has some.
        """
        if self._read is not None:
            self.known, self._read = list(self._read()), None
        return self.known

    @candidates.setter
    def candidates(self, value: Iterable[Any]) -> None:
        self.known, self._read = list(value), None

    @property
    def complete(self) -> bool:
        """Whether `known` has all of them."""
        return self._read is None

    def __reduce__(self) -> tuple[Any, ...]:
        plain = AmbiguousAdapterError(
            self.message, hint=self.hint, candidates=self.candidates, suggestions=self.suggestions, details=self.details
        )
        return plain.__reduce__()


class Finder:
    """Resolves references of one hub.

    Args:
        settings: for the pins, and whether to stay offline.
        hub: which one.
        index: its index files.
        source: gives the hub itself, which is asked for what only it knows when nothing is found.
    """

    def __init__(self, settings: Settings, hub: Hub, index: IndexFiles, source: Callable[[], Source]) -> None:
        self.settings, self.hub, self.index, self.source = settings, hub, index, source

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
        """Resolve over the index files the reference needs."""

        def contents(paths: list[str]) -> dict[str, bytes | None]:
            return self.index.read(paths, accept_stale=accept_stale, refresh=refresh, unasked=unasked)

        try:
            found = drive(look_up(parsed, aliases=aliases, **asked), contents)
        except AmbiguousAdapterError as error:
            self._refuse_pinned_elsewhere(str(one["adapter"]) for one in error.candidates)
            raise
        self._refuse_pinned_elsewhere([found.adapter])
        return found

    def candidates(
        self, parsed: AdapterReference, asked: Mapping[str, Any], aliases: Mapping[str, str] | None
    ) -> list[Any]:
        """All that an ambiguous reference may mean. What was just read is not asked for again."""
        steps = look_up(parsed, aliases=aliases, complete=True, **asked)
        try:
            found = drive(steps, lambda paths: self.index.read(paths, accept_stale=True))
        except AmbiguousAdapterError as error:
            self._refuse_pinned_elsewhere(str(one["adapter"]) for one in error.candidates)
            return error.candidates
        return [{"id": found.full_id, "adapter": found.adapter}]

    def _refuse_pinned_elsewhere(self, adapters: Iterable[str]) -> None:
        for adapter in adapters if self.settings.pins else ():
            self.settings.check_pin(adapter[1:].partition("/")[0], self.hub)

    def _explain(
        self,
        error: AdapterNotFoundError,
        parsed: AdapterReference,
        asked: Mapping[str, Any],
        aliases: Mapping[str, str] | None,
    ) -> AdapterHubError:
        """The same refusal with what only the whole catalogue knows: close names, other models that have it. Asks the same
        hub and no other; where it does not answer, the plain refusal stands."""
        source = self.source()
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


def drive(steps: Lookup, contents: Callable[[list[str]], Mapping[str, bytes | None]]) -> Resolution:
    """Run the spec's look-up, feeding it the files it asks for."""
    answer: Any = None
    while True:
        try:
            paths = steps.send(answer)
        except StopIteration as stop:
            found: Resolution = stop.value
            return found
        answer = contents(paths)


def config_as_json(config: Any) -> Any:
    """A config as it may stand in a lock file or a query."""
    if config is None or isinstance(config, (str, dict)):
        return config
    expand = getattr(config, "expand", None)
    if callable(expand):
        return expand()
    return dict(config) if isinstance(config, Mapping) else str(config)
