"""A static export in a local folder: the same files a web server would hand out, read from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapterhub.client.index import IndexAnswer
from adapterhub.client.info import AdapterInfo
from adapterhub.client.partials import CHUNK, Partial
from adapterhub.client.settings import Hub
from adapterhub.client.verification import hex_of
from adapterhub.spec.errors import HubConnectionError, IntegrityError
from adapterhub.spec.index import IndexEntry, read_lines
from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import default_entry

__all__ = ["FolderSource", "entry_filter", "in_order", "listed_infos", "newest_of_each"]

_SMALL = 64 * 1024 * 1024


class FolderSource:
    """Reads a static export from a folder. Files are named as in the URLs; `sha256:` may also be a folder `sha256/`."""

    offline_capable = True

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.folder = Path(hub.url)
        self._hub_id: str | None = None

    def index_file(self, path: str, etag: str | None, *, patient: bool) -> IndexAnswer:
        """See `Source`."""
        if not (self.folder / "index").is_dir():
            raise HubConnectionError(
                f"{self.folder} holds no static export (no folder 'index' in it).",
                hint="Make one with: adapterhub-server export-static DIR",
            )
        try:
            file = self.folder / path.lstrip("/")
            found = file.stat()
            mark = f"{found.st_size}-{found.st_mtime_ns}"
            if etag == mark:
                return IndexAnswer("unchanged", etag=mark, max_age=0, hub_id=self._told_id())
            with file.open("rb") as stream:
                return IndexAnswer("found", stream.read(_SMALL), etag=mark, max_age=0, hub_id=self._told_id())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return IndexAnswer("absent", max_age=0, hub_id=self._told_id())
        except OSError as error:
            raise HubConnectionError(f"{self.folder / path.lstrip('/')} cannot be read: {error.strerror}.") from error

    def _told_id(self) -> str | None:
        """The hub this is a copy of."""
        if self._hub_id is None:
            try:
                told = json.loads((self.folder / "index" / "config.json").read_bytes()).get("hub_id")
                self._hub_id = told if isinstance(told, str) else ""
            except (OSError, ValueError, AttributeError, RecursionError):
                self._hub_id = ""
        return self._hub_id or None

    def manifest(self, digest: str) -> bytes:
        """See `Source`."""
        with self._open("manifests", digest) as stream:
            data: bytes = stream.read((1 << 20) + 1)
            return data

    def blob(self, digest: str, size: int, partial: Partial, progress: Callable[[int], None]) -> None:
        """See `Source`."""
        with self._open("blobs", digest) as stream:
            stream.seek(partial.offset)
            while partial.offset < size and (piece := stream.read(min(CHUNK, size - partial.offset))):
                partial.append(piece)
                progress(len(piece))

    def _open(self, kind: str, digest: str) -> Any:
        digits = hex_of(digest)
        for name in (f"sha256:{digits}", f"sha256/{digits}", f"sha256-{digits}", digits):
            try:
                return (self.folder / "v1" / kind / name).open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                raise HubConnectionError(f"{self.folder} cannot be read: {error.strerror}.") from error
        raise IntegrityError(
            f"The static export {self.folder} lists {digest} but does not hold its bytes.",
            hint="Export it again: adapterhub-server export-static DIR",
        )

    def entries(self) -> Iterator[IndexEntry]:
        """Every version in the export."""
        for file in sorted((self.folder / "index" / "ns").glob("*/*/*.jsonl")):
            yield from read_lines(file.read_text(encoding="utf-8"))

    def adapters(self, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """See `Source`."""
        keep = entry_filter(filters)
        parts = sorted((self.folder / "index" / "list").glob("*.jsonl"))
        if parts:
            found = [info for part in parts for info in listed_infos(part.read_bytes(), keep)]
        else:
            found = [AdapterInfo.from_entry(one).to_json() for one in newest_of_each(self.entries()) if keep(one)]
        yield from in_order(found, filters)

    def close(self) -> None:
        """See `Source`."""


def listed_infos(body: bytes, keep: Callable[[IndexEntry], bool]) -> Iterator[dict[str, Any]]:
    """The adapters of a part of the list, as far as they pass."""
    for line in filter(None, body.decode(errors="replace").split("\n")):
        for entry in read_lines(line):
            if keep(entry):
                document = json.loads(line)
                info = AdapterInfo.from_entry(entry).to_json()
                yield info | {key: document[key] for key in ("downloads", "description") if key in document}


def in_order(found: Iterable[dict[str, Any]], filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sorted as `GET /v1/adapters` sorts: by downloads unless asked for otherwise, then by name."""
    by_name = sorted(found, key=lambda item: str(item["adapter_id"]))
    sort = filters.get("sort")
    if sort == "name":
        return by_name
    if sort in ("created", "newest", "updated"):
        return sorted(by_name, key=lambda item: str(item.get("created_at") or ""), reverse=True)
    return sorted(by_name, key=lambda item: int(item.get("downloads") or 0), reverse=True)


def newest_of_each(entries: Iterable[IndexEntry]) -> Iterator[IndexEntry]:
    """The default version of each adapter; yanked ones left out."""
    grouped: dict[tuple[str, str], list[IndexEntry]] = {}
    for entry in entries:
        grouped.setdefault((fold(entry.namespace), fold(entry.name)), []).append(entry)
    for versions in grouped.values():
        chosen = default_entry(versions)
        if chosen is not None:
            yield chosen


def entry_filter(filters: Mapping[str, Any]) -> Callable[[IndexEntry], bool]:
    """What `GET /v1/adapters` filters by, over index entries: model, task, subtask, method, language, license, namespace, q."""
    words = str(filters.get("q") or "").lower().split()

    def keep(entry: IndexEntry) -> bool:
        exact = {
            "model": entry.model_name,
            "method": entry.method,
            "language": entry.language,
            "license": entry.license,
            "type": entry.type,
        }
        folded = {"task": entry.task, "subtask": entry.subtask, "namespace": entry.namespace}
        for key, value in exact.items():
            if filters.get(key) is not None and filters[key] != value:
                return False
        for key, value in folded.items():
            if filters.get(key) is not None and fold(str(filters[key])) != fold(value or ""):
                return False
        text = json.dumps([entry.id, entry.adapter, entry.model_name, entry.using, entry.method]).lower()
        return all(word in text for word in words)

    return keep
