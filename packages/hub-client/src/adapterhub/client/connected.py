"""What one client holds: a snapshot of the settings, a cache, and the connections to the hubs it has talked to."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from adapterhub.client.cache import Cache
from adapterhub.client.credentials import token_for
from adapterhub.client.finding import Finder
from adapterhub.client.index import IndexFiles
from adapterhub.client.settings import DEFAULT_HUB, HUGGING_FACE, Hub, Settings, load_settings
from adapterhub.spec.errors import PolicyError
from adapterhub.spec.reference import AdapterReference

if TYPE_CHECKING:
    from adapterhub.client.lockfile import Lockfile
    from adapterhub.client.sources import Source
    from adapterhub.client.sources.huggingface import HuggingFaceSource
    from adapterhub.client.transport import Limits, Transport

__all__ = ["Connected"]


class Connected:
    """Settings, cache and connections of a client; see `HubClient` for the arguments."""

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
        return Finder(self.settings, hub, self._index(hub), lambda: self.source(hub))

    def _index(self, hub: Hub) -> IndexFiles:
        with self._lock:
            return self._index_files(hub)

    def _index_files(self, hub: Hub) -> IndexFiles:
        found = self._indexes.get(hub.url)
        if found is None:
            offline = self.settings.offline and not hub.is_folder
            reader = "" if hub.is_folder else (self._token(hub.origin) or "")
            found = IndexFiles(
                self.cache, hub, lambda: self.source(hub), offline=offline, reader=reader, clock=time.time
            )
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()
