"""The methods a user calls: resolve, download, publish, list. One client, one snapshot of the settings, one cache.

The module's functions make a client from the settings of the moment, so a changed environment counts at once:

    from adapterhub.client import download
    folder = download("sentiment/sst-2@ukp", model_name="bert-base-uncased")
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.cache import Cache
from adapterhub.client.credentials import token_for
from adapterhub.client.finding import Finder, ListedLaterError, config_as_json
from adapterhub.client.index import IndexFiles
from adapterhub.client.info import AdapterInfo
from adapterhub.client.settings import DEFAULT_HUB, HUGGING_FACE, Hub, NoHubError, Settings, load_settings
from adapterhub.spec.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    HubConnectionError,
    IntegrityError,
    OfflineError,
    PolicyError,
)
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.lookup import PartlyListedError
from adapterhub.spec.reference import AdapterReference, parse_reference
from adapterhub.spec.resolution import Resolution

if TYPE_CHECKING:
    from adapterhub.client.lockfile import Lockfile
    from adapterhub.client.publishing import PublishResult
    from adapterhub.client.sources import Source
    from adapterhub.client.sources.huggingface import HuggingFaceSource
    from adapterhub.client.transport import Limits, Transport

__all__ = [
    "HubClient",
    "YankedWarning",
    "download",
    "get_adapter_info",
    "list_adapters",
    "lock",
    "publish",
    "resolve",
    "sync",
]


class YankedWarning(UserWarning):
    """A version that was withdrawn is used because it was asked for by its number."""


class HubClient:
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

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        lockfile: Lockfile | str | os.PathLike[str] | None = None,
        locked: bool = False,
        limits: Limits | None = None,
        settings: Settings | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        found = settings or load_settings()
        if endpoint is not None:
            from adapterhub.client.settings import normal_url

            hub = Hub(found.default_hub, normal_url(endpoint))
            found = found._replace(hubs={**found.hubs, found.default_hub: hub, DEFAULT_HUB: hub})
        if token is not None:
            found = found._replace(token=token)
        if offline is not None:
            found = found._replace(offline=offline)
        if cache_dir is not None:
            found = found._replace(cache_dir=Path(cache_dir).absolute())
        self.settings = found
        self.cache = Cache(found.cache_dir, found.shared_caches)
        self.limits = limits
        self.locked = locked
        self._lockfile = lockfile
        self._notice = notice
        self._lock = threading.RLock()
        self._sources: dict[str, Source] = {}
        self._indexes: dict[str, IndexFiles] = {}

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
        parsed = parse_reference(reference)
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
        hub = self.hub_of(parsed, source)
        if parsed.name is None and model_name is None:
            from adapterhub.spec.errors import InvalidReferenceError

            raise InvalidReferenceError(
                f"{reference!r} is looked up for a base model, and none was given.",
                hint="Give model_name (--model), or address one adapter as @namespace/name.",
            )
        asked = {"model_name": model_name, "config": config, "version": version, "type": type}
        try:
            return self._finder(hub).find(parsed, asked, aliases), hub
        except PartlyListedError as error:

            def candidates() -> list[Any]:
                with HubClient(settings=self.settings, limits=self.limits, notice=self._notice) as again:
                    return again._finder(hub).candidates(parsed, asked, aliases)

            raise ListedLaterError(error, candidates) from None

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
        source = self.source(self.settings.hub(name))
        if self.settings.offline and not source.offline_capable:
            raise OfflineError(
                "Offline mode is on; lists of adapters are not cached.", hint="Unset ADAPTERHUB_OFFLINE."
            )
        items = source.adapters({**filters, "limit": limit})
        return list(islice((AdapterInfo.from_json(item) for item in items), limit))

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
        more = self._live_details(found, hub)
        return AdapterInfo.from_entry(found.entry, **more)

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
            local_dir: copy the files here (the folder is made) instead of giving the cache's own folder.
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
        from adapterhub.client.downloads import copy_folder

        return copy_folder(folder, Path(local_dir))

    def _fetch(self, found: Resolution, hub: Hub, progress: bool | Callable[[int, int], Any] | None) -> Path:
        from adapterhub.client.downloads import fetch

        if found.entry.yanked:
            reason = f" ({found.entry.yanked_reason})" if found.entry.yanked_reason else ""
            self._say(f"{found.adapter}:{found.version} was yanked{reason}.", YankedWarning)
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
            self._index(hub).forget(result.index_paths())
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
        index = self._index(hub)
        from adapterhub.spec.index import namespace_path

        index.forget([namespace_path(parsed.namespace or "", parsed.name or "")])
        return answer

    # -- locking ------------------------------------------------------------------------------------------------------

    @property
    def lockfile(self) -> Lockfile | None:
        """The lock file in use, read when first needed."""
        from adapterhub.client.lockfile import LOCKFILE, Lockfile

        if self._lockfile is None and self.locked:
            self._lockfile = LOCKFILE
        if self._lockfile is not None and not isinstance(self._lockfile, Lockfile):
            self._lockfile = Lockfile(Path(self._lockfile))
        return self._lockfile

    def lock(
        self,
        references: Iterable[str] = (),
        *,
        model_name: str | None = None,
        config: Any = None,
        version: str | None = None,
        type: str | None = None,
        source: str | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Lockfile:
        """Resolve references now and write down what they stand for; without references, everything already locked is
        resolved anew.

        Returns:
            The lock file as written.
        """
        from adapterhub.client.lockfile import LOCKFILE, Locked, Lockfile

        file = Lockfile(Path(path)) if path is not None else (self.lockfile or Lockfile(LOCKFILE))
        jobs: list[tuple[str, dict[str, Any]]] = [
            (
                reference,
                {"model_name": model_name, "config": config, "version": version, "type": type, "source": source},
            )
            for reference in references
        ] or [(item.reference, _from_context(item.context)) for item in file.items()]
        kept, self._lockfile, locked, self.locked = self._lockfile, None, self.locked, False
        try:
            results = [(reference, asked, *self._resolve(reference, **asked)) for reference, asked in jobs]
        finally:
            self._lockfile, self.locked = kept, locked
        for reference, asked, found, hub in results:
            if found.digest is None:
                raise AdapterNotFoundError(
                    f"{found.adapter}:{found.version} cannot be locked: the hub does not have its bytes."
                )
            context = {**asked, "config": config_as_json(asked["config"]), "version_asked": asked["version"]}
            del context["version"]
            file.put(
                Locked(
                    reference=reference,
                    hub=hub.name,
                    hub_url=hub.url,
                    adapter=found.adapter,
                    version=found.version,
                    digest=found.digest,
                    entry=found.entry.to_json(),
                    tier=found.tier,
                    decided_by=found.decided_by,
                    context={key: value for key, value in context.items() if value is not None},
                )
            )
        file.write()
        return file

    def sync(self, path: str | os.PathLike[str] | None = None, *, progress: bool | None = None) -> dict[str, Path]:
        """Download everything the lock file lists. Returns reference → folder."""
        from concurrent.futures import ThreadPoolExecutor

        from adapterhub.client.lockfile import LOCKFILE, Locked, Lockfile

        file = Lockfile(Path(path)) if path is not None else (self.lockfile or Lockfile(LOCKFILE))
        kept, self._lockfile = self._lockfile, file
        try:
            items = file.items()
            with ThreadPoolExecutor(4) as pool:

                def one(item: Locked) -> Path:
                    return self.download(item.reference, **_from_context(item.context), progress=progress)

                return dict(zip((item.reference for item in items), pool.map(one, items), strict=True))
        finally:
            self._lockfile = kept

    def _from_lock(self, reference: str, context: Mapping[str, Any]) -> tuple[Resolution, Hub] | None:
        file = self.lockfile if (self.locked or self._lockfile is not None) else None
        if file is None:
            return None
        item = file.require(reference, context) if self.locked else file.get(reference, context)
        if item is None:
            return None
        entry = IndexEntry.from_json({**item.entry, "digest": item.digest})
        parsed = parse_reference(reference)
        hub = self.settings.hubs.get(item.hub) or Hub(item.hub, item.hub_url)
        self.settings.hub_for(item.hub if item.hub in self.settings.hubs else None, entry.namespace)
        sha256 = parsed.digest.partition(":")[2] if parsed.digest else None
        return Resolution(entry, item.tier, item.decided_by, hub=parsed.hub, sha256=sha256), hub

    # -- parts --------------------------------------------------------------------------------------------------------

    def hub_of(self, reference: AdapterReference, source: str | None = None) -> Hub:
        """The one hub a reference belongs to.

        Raises:
            PolicyError: it names one hub and belongs to another.
        """
        named = reference.hub
        if source is not None and source != HUGGING_FACE:
            if named is not None and self.settings.hub(named) != self.settings.hub(source):
                raise PolicyError(f"The reference names the hub {named!r} and the call {source!r}.", hint="Give one.")
            named = named or source.lower()
            if named == DEFAULT_HUB and reference.hub is None:
                named = None  # "ah" is the default source of calls that do not care; pins still count
        if named == HUGGING_FACE:
            raise PolicyError(
                "References of the Hugging Face hub are repository names.",
                hint='Use source="hf" with "owner/repository".',
            )
        return self.settings.hub_for(named, reference.namespace)

    def source(self, hub: Hub) -> Source:
        """Where the files of `hub` come from."""
        with self._lock:
            return self._source(hub)

    def _source(self, hub: Hub) -> Source:
        found = self._sources.get(hub.url)
        if found is None:
            if hub.is_folder:
                from adapterhub.client.sources.static import FolderSource

                found = FolderSource(hub)
            else:
                from adapterhub.client.sources.hub import HubSource

                found = HubSource(hub, self._new_transport(hub))
            self._sources[hub.url] = found
        return found

    def transport(self, hub: Hub) -> Transport:
        """The connection to `hub`, for writing.

        Raises:
            PolicyError: it is a folder.
        """
        source = self.source(hub)
        transport: Transport | None = getattr(source, "transport", None)
        if transport is None:
            raise PolicyError(
                f"The hub {hub.name!r} is a static export in {hub.url}; it can only be read.",
                hint="Publish to the live hub and export again.",
            )
        return transport

    def _token(self, origin: str) -> str | None:
        found = token_for(self.settings, origin)
        return found[0] if found else None

    def _new_transport(self, hub: Hub) -> Transport:
        from adapterhub.client.transport import Limits, Transport

        log = (lambda line: print(f"adapterhub: {line}", file=sys.stderr)) if self.settings.debug else None
        return Transport(
            base=hub.url, token=self._token, offline=self.settings.offline, limits=self.limits or Limits(), log=log
        )

    def _finder(self, hub: Hub) -> Finder:
        return Finder(self.settings, self._index(hub), self.source(hub))

    def _index(self, hub: Hub) -> IndexFiles:
        with self._lock:
            return self._index_files(hub)

    def _index_files(self, hub: Hub) -> IndexFiles:
        found = self._indexes.get(hub.url)
        if found is None:
            source = self.source(hub)
            offline = self.settings.offline and not source.offline_capable
            reader = "" if hub.is_folder else (self._token(hub.origin) or "")
            found = IndexFiles(self.cache, source, offline=offline, reader=reader, clock=time.time)
            self._indexes[hub.url] = found
        return found

    def _hugging_face(self) -> HuggingFaceSource:
        from adapterhub.client.sources.huggingface import HuggingFaceSource

        return HuggingFaceSource(self.settings)

    def _say(self, text: str, category: type[Warning] = UserWarning) -> None:
        if self._notice is not None:
            self._notice(text)
        else:
            warnings.warn(text, category, stacklevel=4)

    def close(self) -> None:
        """End all connections."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self._indexes.clear()

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _from_context(context: Mapping[str, Any]) -> dict[str, Any]:
    asked = {key: context.get(key) for key in ("model_name", "config", "type", "source")}
    return {**asked, "version": context.get("version_asked")}


# -- the same as functions --------------------------------------------------------------------------------------------


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
