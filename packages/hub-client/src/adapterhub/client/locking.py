"""References written down with what they stand for, so that a training script gets the same bytes every time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.connected import Connected
from adapterhub.client.finding import config_as_json
from adapterhub.client.settings import Hub, normal_url
from adapterhub.spec.errors import AdapterNotFoundError
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.reference import parse_reference
from adapterhub.spec.resolution import Resolution

if TYPE_CHECKING:
    from adapterhub.client.lockfile import Locked, Lockfile

__all__ = ["Locking"]


class Locking(Connected):
    """The part of a client that writes and follows a lock file."""

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
        from adapterhub.client.lockfile import Locked

        file = self._lockfile_at(path)
        jobs: list[tuple[str, dict[str, Any]]] = [
            (
                reference,
                {"model_name": model_name, "config": config, "version": version, "type": type, "source": source},
            )
            for reference in references
        ] or [(item.reference, _from_context(item.context)) for item in file.items()]
        client: Any = self
        results: list[tuple[str, dict[str, Any], Resolution, Hub]] = [
            (reference, asked, *client._look_up(reference, **asked)) for reference, asked in jobs
        ]
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
        """Download everything the lock file lists.

        Returns:
            Reference → folder. A reference that is locked for several models or configs has them in brackets behind it.
        """
        from collections import Counter
        from concurrent.futures import ThreadPoolExecutor

        client: Any = self
        items = self._lockfile_at(path).items()
        often = Counter(item.reference for item in items)

        def one(item: Locked) -> tuple[str, Path]:
            name = f"{item.reference} ({_told(item.context)})" if often[item.reference] > 1 else item.reference
            return name, client._fetch(*self._unlocked(item), progress)

        with ThreadPoolExecutor(4) as pool:
            return dict(pool.map(one, items))

    def _lockfile_at(self, path: str | os.PathLike[str] | None) -> Lockfile:
        """The lock file at `path`, else the client's, else the one in the working directory."""
        from adapterhub.client.lockfile import LOCKFILE, Lockfile

        known = self.lockfile if path is None else None
        return Lockfile(Path(path or LOCKFILE)) if known is None else known

    def _from_lock(self, reference: str, context: Mapping[str, Any]) -> tuple[Resolution, Hub] | None:
        file = self.lockfile if (self.locked or self._lockfile is not None) else None
        if file is None:
            return None
        item = file.require(reference, context) if self.locked else file.get(reference, context)
        return None if item is None else self._unlocked(item)

    def _unlocked(self, item: Locked) -> tuple[Resolution, Hub]:
        """What a record of the lock file stands for. The hub is the configured one of that name, else where it was locked."""
        entry = IndexEntry.from_json({**item.entry, "digest": item.digest})
        parsed = parse_reference(item.reference)
        hub = self.settings.hubs.get(item.hub) or Hub(item.hub, normal_url(item.hub_url))
        self.settings.check_pin(entry.namespace, hub)
        sha256 = parsed.digest.partition(":")[2] if parsed.digest else None
        named = parsed.hub or self.settings.name_needed(hub, entry.namespace)
        return Resolution(entry, item.tier, item.decided_by, hub=named, sha256=sha256), hub


def _from_context(context: Mapping[str, Any]) -> dict[str, Any]:
    asked = {key: context.get(key) for key in ("model_name", "config", "type", "source")}
    return {**asked, "version": context.get("version_asked")}


def _told(context: Mapping[str, Any]) -> str:
    return ", ".join(value if isinstance(value, str) else json.dumps(value) for value in context.values())
