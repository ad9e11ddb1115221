"""References written down with what they stand for, so that a training script gets the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.connected import Connected
from adapterhub.client.finding import config_as_json
from adapterhub.client.settings import Hub
from adapterhub.spec.errors import AdapterNotFoundError
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.reference import parse_reference
from adapterhub.spec.resolution import Resolution

if TYPE_CHECKING:
    from adapterhub.client.lockfile import Lockfile

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
            client: Any = self
            results: list[tuple[str, dict[str, Any], Resolution, Hub]] = [
                (reference, asked, *client._resolve(reference, **asked)) for reference, asked in jobs
            ]
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
        client: Any = self
        kept, self._lockfile = self._lockfile, file
        try:
            items = file.items()
            with ThreadPoolExecutor(4) as pool:

                def one(item: Locked) -> Path:
                    folder: Path = client.download(item.reference, **_from_context(item.context), progress=progress)
                    return folder

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


def _from_context(context: Mapping[str, Any]) -> dict[str, Any]:
    asked = {key: context.get(key) for key in ("model_name", "config", "type", "source")}
    return {**asked, "version": context.get("version_asked")}
