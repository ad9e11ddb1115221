"""The static twin: a folder any web server can hand out, with everything a client needs for reading, and the pages.

Files have the names of the URLs (`/index/…`, `/v1/manifests/sha256:…`, `/v1/blobs/sha256:…`; a page `/x` is
`x/index.html`). Only what everybody may see is exported. `export.json` remembers the serial, so that the next export
writes what changed since and nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from sqlalchemy import Connection, false, select

from adapterhub.server.accounts.viewer import ANONYMOUS
from adapterhub.server.resolving.files import index_file, index_pages
from adapterhub.server.resolving.pairs import spellings
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import hub_text
from adapterhub.server.storage.tables import adapters, hub, manifests, organisations, version_files, versions
from adapterhub.spec.errors import IntegrityError, PolicyError, StorageError
from adapterhub.spec.index import IndexEntry, all_path, bucket_path, list_path, model_path, namespace_path, word_path
from adapterhub.spec.index_files import list_digits, write_list
from adapterhub.spec.resolution import default_entry

__all__ = ["Export", "export_static"]

#: the hub's address on pages where none is given
_NOWHERE = "http://localhost"
#: files of every page's folder: an adapter of this name has no page of its own in an export
_PAGE_FILES = ("index.html", "index.json")


@dataclasses.dataclass(slots=True)
class Export:
    """What an export did."""

    serial: int
    written: int = 0
    removed: int = 0
    unchanged: int = 0
    blobs: int = 0
    pages: int = 0


def export_static(
    storage: Storage,
    settings: Settings,
    folder: Path,
    *,
    pages: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Export:
    """Write the public part of the hub into `folder`, or bring an earlier export up to date.

    Raises:
        PolicyError: the folder holds something else, or the export of another hub.
        StorageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with storage.database.read() as connection:
            before = _previous(folder, hub_text(connection, "id"))
            serial = int(connection.execute(select(hub.c.number).where(hub.c.key == "serial")).scalar_one())
            done = Export(serial)
            changed = _changed(connection, before)
            paths = {path for row in changed for path in _index_paths(row)}
            for path in sorted({"/index/config.json", "/index/aliases.json", *paths}):
                body = index_file(connection, settings, path.removeprefix("/index/"), ANONYMOUS)
                _put(folder, path, body, done)
                if path.startswith(("/index/k/", "/index/w/")):
                    _put_pages(connection, folder, path, done)
            _put_list(connection, folder, done)
            tell(f"{len(paths)} index files looked at")
            wanted = _content(connection, storage, folder, done)
            tell(f"{done.blobs} new manifests and blobs")
            addresses = _page_addresses(connection) if pages else []
        _drop_unwanted(folder, wanted, done)
        if pages:
            asyncio.run(_write_pages(settings, folder, addresses, done))
            tell(f"{done.pages} pages looked at")
            if not settings.public_url:
                tell(f"Sample code and feed name {_NOWHERE} as the hub's address: give --url with the one it will have")
        with storage.database.read() as connection:
            _put(
                folder,
                "/export.json",
                json.dumps({"hub_id": hub_text(connection, "id"), "serial": serial}).encode(),
                done,
            )
    except OSError as error:
        if isinstance(error, (StorageError, IntegrityError, PolicyError)):
            raise
        raise StorageError(f"The export in {folder} cannot be written: {error.strerror or error}.") from error
    return done


def _previous(folder: Path, hub_id: str) -> int:
    try:
        known = json.loads((folder / "export.json").read_text("utf-8"))
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise PolicyError(f"{folder} is not empty and holds no export.", hint="Choose an empty folder.") from None
        return -1
    except ValueError as error:
        raise PolicyError(f"{folder}/export.json cannot be read: {error}.") from None
    if known.get("hub_id") != hub_id:
        raise PolicyError(f"{folder} holds the export of another hub.", hint="Choose an empty folder.")
    return int(known.get("serial", -1))


def _changed(connection: Connection, since: int) -> list[Any]:
    """Adapters that changed after `since`, the now private ones too: their files have to go."""
    return list(
        connection.execute(
            select(adapters, organisations.c.name.label("ns"))
            .join(organisations, organisations.c.id == adapters.c.organisation_id)
            .where(adapters.c.serial > since)
        )
    )


def _index_paths(row: Any) -> Iterator[str]:
    yield namespace_path(row.ns, row.name)
    yield bucket_path(row.model_name, row.task, row.subtask)
    yield all_path(row.model_name, row.task, row.subtask)
    yield model_path(row.model_name)
    for word in spellings().words(row.task, row.subtask):
        yield word_path(row.model_name, word)
    for path in spellings().paths(row.task, row.subtask):
        yield bucket_path(row.model_name, *path.split("/"))


def _put_pages(connection: Connection, folder: Path, path: str, done: Export) -> None:
    """The pages of an index file, if it is split; pages of no more use go."""
    _, _, kind, bucket = path.removesuffix(".jsonl").split("/")
    pages = index_pages(connection, kind, bucket)
    place = _file(folder, path.removesuffix(".jsonl"))
    for name in {file.stem for file in place.iterdir()} - pages.keys() if place.is_dir() else ():
        (place / f"{name}.jsonl").unlink()
        done.removed += 1
    for name, body in pages.items():
        _put(folder, f"{path.removesuffix('.jsonl')}/{name}.jsonl", body, done)


def _put_list(connection: Connection, folder: Path, done: Export) -> None:
    """The list of all adapters: a static copy answers no search, so that clients read this. Downloads change without a
    serial, so every part is looked at."""
    rows = connection.execute(
        select(adapters.c.id, adapters.c.name, organisations.c.name.label("ns"))
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(adapters.c.listed, adapters.c.private == false())
    ).all()
    digits = list_digits(len(rows))
    parts: dict[str, list[int]] = {}
    for row in rows:
        parts.setdefault(list_path(row.ns, row.name, digits), []).append(row.id)
    for path, ids in sorted(parts.items()):
        some = (ids[start : start + 400] for start in range(0, len(ids), 400))
        lines = [f"{line}\n" for few in some for line in _listed(connection, few)]
        _put(folder, path, "".join(lines).encode(), done)
    _put(folder, "/index/list.json", write_list(len(rows)).encode(), done)
    for file in _file(folder, "/index/list").glob("*.jsonl"):
        if f"/index/list/{file.name}" not in parts:
            file.unlink()
            done.removed += 1


def _listed(connection: Connection, ids: list[int]) -> Iterator[str]:
    """For each adapter the line of its default version, with downloads and description."""
    found: dict[int, tuple[Any, list[IndexEntry]]] = {}
    query = (
        select(adapters.c.id, adapters.c.downloads, adapters.c.description, versions.c.line)
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(adapters.c.id.in_(ids), versions.c.state == "published")
        .order_by(adapters.c.id, versions.c.serial)
    )
    for row in connection.execute(query):
        found.setdefault(row.id, (row, []))[1].append(IndexEntry.from_json(json.loads(row.line)))
    for row, entries in found.values():
        chosen = default_entry(entries)
        if chosen is not None:
            about = {"downloads": row.downloads, "description": row.description[:500]}
            document = {**chosen.to_json(), **{key: value for key, value in about.items() if value}}
            yield json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _content(connection: Connection, storage: Storage, folder: Path, done: Export) -> set[str]:
    """Manifests and blobs; returns the paths that belong into the export."""
    wanted: set[str] = set()
    public = (versions.c.state == "published") & (adapters.c.private == false())
    query = select(versions.c.digest).join(adapters, adapters.c.id == versions.c.adapter_id).where(public)
    for digest in connection.execute(query.where(versions.c.digest.is_not(None)).distinct()).scalars().all():
        path = f"/v1/manifests/{digest}"
        wanted.add(path)
        if not (folder / path[1:]).exists():
            body = connection.execute(select(manifests.c.body).where(manifests.c.digest == digest)).scalar_one()
            _put(folder, path, bytes(body), done)
            done.blobs += 1
    files = (
        select(version_files.c.digest)
        .join(versions, versions.c.id == version_files.c.version_id)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(public)
        .distinct()
    )
    for digest in connection.execute(files).scalars().all():
        path = f"/v1/blobs/{digest}"
        wanted.add(path)
        if not (folder / path[1:]).exists():
            _put_blob(storage, folder / path[1:], digest)
            done.written += 1
            done.blobs += 1
    return wanted


def _put_blob(storage: Storage, target: Path, digest: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    hashed = hashlib.sha256()
    with partial.open("wb") as file:
        for piece in storage.blobs.pieces(digest):
            hashed.update(piece)
            file.write(piece)
    if f"sha256:{hashed.hexdigest()}" != digest:
        partial.unlink()
        raise IntegrityError(f"The blob {digest} of the hub is broken.", hint="Run `adapterhub-server verify`.")
    partial.replace(target)


def _drop_unwanted(folder: Path, wanted: set[str], done: Export) -> None:
    """What was deleted, quarantined or made private leaves the export."""
    for kind in ("manifests", "blobs"):
        place = folder / "v1" / kind
        for path in place.iterdir() if place.is_dir() else ():
            if f"/v1/{kind}/{path.name}" not in wanted:
                path.unlink()
                done.removed += 1


def _page_addresses(connection: Connection) -> list[str]:
    from adapterhub.server.catalogue.tables import explore_pairs

    found = ["/", "/docs", "/feed.atom", "/explore/task", "/explore/language"]
    for row in connection.execute(select(explore_pairs.c.kind, explore_pairs.c.task, explore_pairs.c.subtask)):
        found += [
            f"/explore/{row.kind}/{quote(row.task)}",
            f"/explore/{row.kind}/{quote(row.task)}/{quote(row.subtask)}",
        ]
    rows = connection.execute(
        select(organisations.c.name.label("ns"), adapters.c.name, adapters.c.id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(adapters.c.listed, adapters.c.private == false())
    ).all()
    numbers = {row.id: f"/@{row.ns}/{quote(row.name)}" for row in rows if row.name.lower() not in _PAGE_FILES}
    found += [f"/@{row.ns}" for row in rows]
    found += numbers.values()
    for version in connection.execute(
        select(versions.c.adapter_id, versions.c.version).where(versions.c.state == "published").order_by(versions.c.id)
    ):
        if version.adapter_id in numbers:
            found.append(f"{numbers[version.adapter_id]}/versions/{quote(version.version)}")
    return list(dict.fromkeys(found))


async def _write_pages(settings: Settings, folder: Path, addresses: Iterable[str], done: Export) -> None:
    from adapterhub.server.app import create_app
    from adapterhub.server.web.static_pages import twin_of, with_relative_links
    from adapterhub.server.web.templating import STATIC_FOLDER

    app = create_app(settings)
    app.state.static = True  # pages that need no server
    kept: set[Path] = set()
    try:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url=_NOWHERE, headers={"Accept-Encoding": "identity"}
        ) as client:
            for address in addresses:
                answer = await client.get(address)
                if answer.status_code == 404:  # deleted since the addresses were listed
                    continue
                if answer.status_code != 200:
                    raise StorageError(f"The page {address} cannot be drawn: {answer.status_code}.")
                name = address if address.endswith(".atom") else f"{address.rstrip('/')}/index.html"
                kept.add(_file(folder, name))
                body = answer.content if name == address else with_relative_links(answer.text, address).encode()
                _put(folder, name, body, done)
                done.pages += 1
                twin = await twin_of(client, address)
                if twin is not None:
                    _put(folder, f"{address.rstrip('/')}/index.json", twin, done)
    finally:
        app.state.storage.close()
    for path in sorted(STATIC_FOLDER.iterdir()):
        if path.is_file():
            _put(folder, f"/static/{path.name}", path.read_bytes(), done)
    for path in folder.rglob("index.html"):
        if path not in kept:
            path.unlink()
            path.with_name("index.json").unlink(missing_ok=True)
            done.removed += 1


def _file(folder: Path, path: str) -> Path:
    from urllib.parse import unquote

    return folder / unquote(path).lstrip("/")


def _put(folder: Path, path: str, body: bytes | None, done: Export) -> None:
    """Write a file if its content changed, in one step; None removes it."""
    target = _file(folder, path)
    if body is None:
        if target.exists():
            target.unlink()
            done.removed += 1
        return
    try:
        if target.read_bytes() == body:
            done.unchanged += 1
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    partial.write_bytes(body)
    os.replace(partial, target)
    done.written += 1
