"""The methods a user calls: resolve, download, publish, list. One client, one snapshot of the settings, one cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.finding import ListedLaterError, config_as_json
from adapterhub.client.locking import Locking
from adapterhub.client.settings import DEFAULT_HUB, HUGGING_FACE, Hub, NoHubError
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AmbiguousAdapterError,
    HubConnectionError,
    IntegrityError,
    OfflineError,
)
from adapterhub.spec.lookup import PartlyListedError
from adapterhub.spec.reference import AdapterReference, parse_reference
from adapterhub.spec.resolution import Resolution

if TYPE_CHECKING:
    from adapterhub.client.info import AdapterInfo
    from adapterhub.client.publishing import PublishResult
    from adapterhub.client.transport import Transport

__all__ = ["HubClient", "YankedWarning"]


class YankedWarning(UserWarning):
    """A version that was withdrawn is used because it was asked for by its number."""


class HubClient(Locking):
    """Finds, downloads and publishes adapters.

    Args:
        endpoint: address or export folder of the default hub; `ADAPTERHUB_ENDPOINT` or `config.json` if None.
        token: for the default hub, and only for it; `ADAPTERHUB_TOKEN` or the login file if None.
        cache_dir: folder of the cache.
        offline: answer from the cache alone.
        lockfile: a lock file (or its path); references in it stand for what is locked.
        locked: refuse references that are not in the lock file.
        limits: time-outs, retries, caps of the transport.
        settings: instead of those of the environment.
        notice: gets one-line remarks; by default they are Python warnings.

    A client may be used by several threads at once. Use it in a `with` block, or call `close`, to end its connections.
    """

    # -- finding ------------------------------------------------------------------------------------------------------

    def resolve(
        self,
        reference: str,
        *,
        model_name: str | None = None,
        config: Any = None,
        version: str | None = None,
        type: str | None = None,
        source: str | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> Resolution:
        """The one version `reference` stands for. Nothing is downloaded but index files.

        Args:
            reference: `sentiment/sst-2@ukp`, `sst-2`, `@ukp/name:1.0`, `hub::…`, with `@sha256:…` if pinned.
            model_name: the base model; needed for everything but `@namespace/name`.
            config: keeps adapters of this config: a preset name, a dict, a config object, a config id.
            version: as `:version` in the reference.
            type: keeps adapters of this type (`text_task`, `text_lang`, …).
            source: name of the hub to ask, as `hub::` in the reference.
            aliases: instead of the hub's table of other names.

        Raises:
            InvalidReferenceError, AdapterNotFoundError, AmbiguousAdapterError, VersionNotFoundError, ModelMismatchError:
                see `adapterhub.spec.resolution.resolve`.
            OfflineError: offline, and not resolved before.
            HubConnectionError: the hub does not answer, and there is no earlier copy of its index.
        """
        if source == HUGGING_FACE:
            return self._hugging_face().resolve(reference, revision=version)
        return self._resolve(reference, model_name, config, version, type, source, aliases)[0]

    def _resolve(
        self,
        reference: str,
        model_name: str | None,
        config: Any,
        version: str | None,
        type: str | None,
        source: str | None,
        aliases: Mapping[str, str] | None = None,
    ) -> tuple[Resolution, Hub]:
        context = {
            "model_name": model_name,
            "config": config_as_json(config),
            "version_asked": version,
            "type": type,
            "source": source,
        }
        locked = self._from_lock(reference, context)
        if locked is not None:
            return locked
        return self._look_up(reference, model_name, config, version, type, source, aliases)

    def _look_up(
        self,
        reference: str,
        model_name: str | None,
        config: Any,
        version: str | None,
        type: str | None,
        source: str | None,
        aliases: Mapping[str, str] | None = None,
    ) -> tuple[Resolution, Hub]:
        """As `_resolve`, whatever is locked."""
        parsed = parse_reference(reference)
        hub = self.hub_of(parsed, source)
        if parsed.name is None and model_name is None:
            from adapterhub.spec.errors import InvalidReferenceError

            raise InvalidReferenceError(
                f"{reference!r} is looked up for a base model, and none was given.",
                hint="Give model_name (--model), or address one adapter as @namespace/name.",
            )
        asked = {"model_name": model_name, "config": config, "version": version, "type": type}
        try:
            found = self._find(hub, parsed, asked, aliases)
        except PartlyListedError as error:

            def candidates() -> list[Any]:
                with HubClient(settings=self.settings, limits=self.limits, notice=self._notice) as again:
                    return again._finder(hub).candidates(parsed, asked, aliases)

            raise ListedLaterError(error, candidates) from None
        named = found.hub or self.settings.name_needed(hub, found.namespace)
        return dataclasses.replace(found, hub=named), hub

    def _find(
        self, hub: Hub, parsed: AdapterReference, asked: Mapping[str, Any], aliases: Mapping[str, str] | None
    ) -> Resolution:
        try:
            return self._finder(hub).find(parsed, asked, aliases)
        except (AdapterNotFoundError, AmbiguousAdapterError) as error:
            if error.hint and self.settings.name_needed(hub, parsed.namespace or ""):
                error.hint += f" Keep {hub.name}:: before it."  # what is copied without it would be asked elsewhere
            raise

    def list_adapters(
        self,
        source: str | None = DEFAULT_HUB,
        model_name: str | None = None,
        *,
        query: str | None = None,
        task: str | None = None,
        subtask: str | None = None,
        method: str | None = None,
        language: str | None = None,
        license: str | None = None,
        namespace: str | None = None,
        type: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> list[AdapterInfo]:
        """Adapters that pass all filters.

        Args:
            source: `ah` (the default hub), a configured hub's name, `hf` (the Hugging Face hub), or None for `ah` and `hf`.
            model_name: the base model.
            query: words to search for.
            sort: `relevance`, `downloads`, `created`, `name`, as far as the hub offers it.
            limit: at most so many from each source.

        Raises:
            HubConnectionError, OfflineError: lists are not cached; they need the hub.
        """
        filters = {
            "q": query,
            "model": model_name,
            "task": task,
            "subtask": subtask,
            "method": method,
            "language": language,
            "license": license,
            "namespace": namespace,
            "type": type,
            "sort": sort,
        }
        names = [self.settings.default_hub, HUGGING_FACE] if source is None else [source]
        found: list[AdapterInfo] = []
        for name in names:
            try:
                found += self._list(name, filters, limit)
            except (HubConnectionError, OfflineError, NoHubError) as error:
                if source is not None or (name != HUGGING_FACE and not isinstance(error, NoHubError)):
                    raise
                self._say(f"Left out {name}: {error.message}")
        return found

    def _list(self, name: str, filters: Mapping[str, Any], limit: int | None) -> list[AdapterInfo]:
        from itertools import islice

        if name == HUGGING_FACE:
            return list(islice(self._hugging_face().adapters(filters), limit))
        hub = self.settings.hub(name)
        source = self.source(hub)
        if self.settings.offline and not source.offline_capable:
            raise OfflineError(
                "Offline mode is on; lists of adapters are not cached.", hint="Unset ADAPTERHUB_OFFLINE."
            )
        from adapterhub.client.info import AdapterInfo

        found = (AdapterInfo.from_json(item) for item in source.adapters({**filters, "limit": limit}))
        return [
            dataclasses.replace(info, hub=self.settings.name_needed(hub, info.namespace or ""))
            for info in islice(found, limit)
        ]

    def get_adapter_info(
        self,
        reference: str,
        *,
        model_name: str | None = None,
        config: Any = None,
        version: str | None = None,
        type: str | None = None,
        source: str | None = None,
    ) -> AdapterInfo:
        """What is known about one adapter. The arguments and errors are those of `resolve`; `source="hf"` takes the name
        of a repository."""
        if source == HUGGING_FACE:
            return self._hugging_face().info(reference, revision=version)
        found, hub = self._resolve(reference, model_name, config, version, type, source)
        from adapterhub.client.info import AdapterInfo

        more = self._live_details(found, hub)
        return AdapterInfo.from_entry(found.entry, hub=found.hub, **more)

    def _live_details(self, found: Resolution, hub: Hub) -> dict[str, Any]:
        """Downloads and description, which no index line has; nothing where the hub does not answer at once."""
        source = self.source(hub)
        if self.settings.offline or source.offline_capable:
            return {}
        from urllib.parse import quote

        path = f"/v1/adapters/{quote(found.adapter, safe='@/')}"
        try:
            transport: Transport = source.transport  # type: ignore[attr-defined]
            answer = transport.request("GET", path, accept=(404,), retry=False)
            document = answer.json() if answer.status == 200 else {}
        except AdapterHubError:
            return {}
        summary = document.get("summary", document) if isinstance(document, dict) else {}
        more: dict[str, Any] = {}
        if isinstance(summary, dict):
            if isinstance(summary.get("downloads"), int):
                more["downloads"] = summary["downloads"]
            if isinstance(summary.get("description"), str):
                more["description"] = summary["description"]
        return more

    # -- fetching -----------------------------------------------------------------------------------------------------

    def download(
        self,
        reference: str | Resolution,
        *,
        model_name: str | None = None,
        config: Any = None,
        version: str | None = None,
        type: str | None = None,
        source: str | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        progress: bool | Callable[[int, int], Any] | None = None,
    ) -> Path:
        """A folder with the adapter's files, every byte verified against the digests of its manifest.

        Args:
            reference: a reference, or what `resolve` gave.
            local_dir: copy the files here (the folder is made) instead of giving the cache's own folder. What an earlier
                download left there is replaced; files of your own are not: then it is refused.
            progress: show a bar (by default on a terminal), or a function called with (bytes so far, bytes in all).

        Returns:
            The folder. In the cache it is not to be changed; a change is found and the files are fetched again.

        Raises:
            As `resolve`, and IntegrityError: what arrived is not what was published; StorageError: the disk is full.
        """
        if source == HUGGING_FACE or (isinstance(reference, Resolution) and reference.hub == HUGGING_FACE):
            repository, revision = (
                (reference.adapter[1:], reference.version)
                if isinstance(reference, Resolution)
                else (reference, version)
            )
            folder = self._hugging_face().download(repository, revision=revision)
        else:
            if isinstance(reference, Resolution):
                found, hub = reference, self.settings.hub_for(source or reference.hub, reference.namespace)
            else:
                found, hub = self._resolve(reference, model_name, config, version, type, source)
            try:
                folder = self._fetch(found, hub, progress)
            except (AdapterNotFoundError, IntegrityError):
                # the copy of the index may be broken or outdated: ask for it anew, and give up if it says the same
                locked = self.locked or self._lockfile is not None
                if isinstance(reference, Resolution) or self.settings.offline or locked:
                    raise
                asked = {"model_name": model_name, "config": config, "version": version, "type": type}
                again = self._finder(hub).look_up(parse_reference(reference), asked, None, refresh=True)
                if again.digest == found.digest:
                    raise
                folder = self._fetch(again, hub, progress)
        if local_dir is None:
            return folder
        from adapterhub.client.copying import copy_folder

        return copy_folder(folder, Path(local_dir), self.cache)

    def _fetch(self, found: Resolution, hub: Hub, progress: bool | Callable[[int, int], Any] | None) -> Path:
        if found.entry.yanked:
            reason = f" ({found.entry.yanked_reason})" if found.entry.yanked_reason else ""
            self._say(f"{found.adapter}:{found.version} was yanked{reason}.", YankedWarning)
        if found.digest is not None and found.entry.status == "available":
            there = self.cache.find_snapshot(found.digest)
            if there is not None and found.sha256 in (None, found.digest.partition(":")[2]):
                return there
        from adapterhub.client.downloads import fetch

        return fetch(
            found.entry,
            source=lambda: self.source(hub),
            cache=self.cache,
            hub=hub,
            offline=self.settings.offline,
            expect=found.sha256,
            show=self.settings.progress if progress is None or callable(progress) else bool(progress),
            report=progress if callable(progress) else None,
        )

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        folder: str | os.PathLike[str],
        reference: str,
        *,
        version: str | None = None,
        name: str | None = None,
        source: str | None = None,
        dry_run: bool = False,
        progress: bool | None = None,
        **metadata: Any,
    ) -> PublishResult:
        """Publish an adapter folder as `task/subtask@namespace` or `@namespace/name`.

        All problems are found at once before anything is sent; only files the hub lacks are sent; the version appears as
        a whole or not at all; doing it again changes nothing.

        Args:
            folder: what `save_adapter` wrote.
            version: by default the reference's, else `1`.
            name: the adapter's own name; made of model, task, subtask and config if None.
            source: name of the hub.
            dry_run: check everything and say what would be sent.
            metadata: license, languages, datasets, metrics, description, citation, authors, dependencies, model_name, …;
                see `adapterhub.spec.build_manifest`.

        Raises:
            ValidationFailedError: `problems` lists everything wrong with the folder.
            AuthenticationError: no token, or not for this namespace.
            VersionExistsError: this version is there with other content.
        """
        from adapterhub.client.publishing import publish_folder

        parsed = parse_reference(reference)
        hub = self.hub_of(parsed, source)
        show = self.settings.progress if progress is None else progress
        result = publish_folder(
            Path(folder),
            parsed,
            version=version,
            name=name,
            hub=hub,
            transport=self.transport(hub),
            state_folder=self.cache.root / "uploads",
            dry_run=dry_run,
            show=show,
            metadata=metadata,
        )
        if not dry_run:
            self._index(hub).forget()
        return result

    def yank(
        self,
        reference: str,
        *,
        version: str | None = None,
        reason: str = "",
        undo: bool = False,
        source: str | None = None,
    ) -> dict[str, Any]:
        """Withdraw a version: references that do not name it no longer find it; its bytes stay for those that do.

        Args:
            reference: `@namespace/name:version`.
            undo: bring it back.
        """
        from adapterhub.client.publishing import yank_version

        parsed = parse_reference(reference)
        hub = self.hub_of(parsed, source)
        answer = yank_version(self.transport(hub), parsed, version=version, reason=reason, undo=undo)
        self._index(hub).forget()
        return answer
