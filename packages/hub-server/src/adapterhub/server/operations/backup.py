"""Backups: every record as JSON lines and every blob as a file, whatever the stores are, taken while the hub runs.

    backup.json                          schema, serial, time, and size and sha256 of each file of records
    records-<serial>-<time>/<table>.jsonl
    blobs/sha256/<ab>/<64 hex>

Records are read in one consistent snapshot, blobs afterwards (they never change, so any later moment will do). A second
backup into the same folder copies only new blobs. A restore may go to other stores than the backup came from: this is
also how a hub moves from SQLite to PostgreSQL. Whatever can be computed from the records is computed anew.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Date, LargeBinary, Table, func, insert, select, text

from adapterhub.server.__about__ import __version__
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import rebuild_all
from adapterhub.server.storage.migrate import HEAD
from adapterhub.server.storage.schema import metadata
from adapterhub.server.storage.tables import (
    blobs,
    hub,
    organisations,
    pair_paths,
    pair_words,
    pairs,
    upload_parts,
    uploads,
)
from adapterhub.spec.errors import IntegrityError, PolicyError, StorageError

__all__ = ["backup", "restore"]

_BATCH = 1000
#: computed anew by `rebuild_all`, or of no use later
_DERIVED = {
    pairs.name,
    pair_words.name,
    pair_paths.name,
    uploads.name,
    upload_parts.name,
    "listings",
    "explore_pairs",
    "explore_cells",
    "facet_counts",
    "download_marks",
    "upstream_files",  # pulled again when needed
    "upstream_blobs",
    "used_assertions",
    "device_codes",
    "weight_checks",  # computed anew from the blobs
}


def backup(storage: Storage, folder: Path, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Write a backup into `folder`; returns what backup.json says.

    Raises:
        StorageError: the folder cannot be written.
        IntegrityError: a blob of the hub is missing or does not hash to its digest. The backup is written without it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.datetime.now(datetime.UTC)
        description, digests = _write_records(storage, folder, stamp)
        tell(f"{sum(item['rows'] for item in description['tables'].values())} records written")
        broken = _copy_blobs(storage, folder, digests, tell)
        description["broken"] = broken
        _write_json(folder / "backup.json", description)
        for old in folder.glob("records-*"):
            if old.name != description["records"]:
                shutil.rmtree(old)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"The backup in {folder} cannot be written: {error.strerror or error}.") from error
    if broken:
        raise IntegrityError(
            f"{len(broken)} blobs of the hub are broken: {', '.join(broken[:5])}.",
            hint="Run `adapterhub-server verify`.",
        )
    return description


def restore(storage: Storage, folder: Path, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Fill an empty hub from a backup; returns what backup.json says.

    Raises:
        PolicyError: the hub is not empty.
        StorageError: there is no backup, or one of another schema.
        IntegrityError: the backup was damaged. Nothing of it is kept in the database.
    """
    try:
        description = json.loads((folder / "backup.json").read_text("utf-8"))
        place = folder / description["records"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder} holds no backup: {error}.") from error
    if description.get("schema") != HEAD:
        raise StorageError(
            f"The backup has schema {description.get('schema')}, this release {HEAD}.",
            hint="Restore it with the release that made it, then migrate.",
        )
    with storage.database.read() as connection:
        if connection.execute(select(func.count()).select_from(organisations)).scalar_one():
            raise PolicyError("The hub is not empty.", hint="Restore into a new --data folder or an empty database.")
    for name, item in description["tables"].items():
        if _file_digest(place / f"{name}.jsonl") != item["sha256"]:
            raise IntegrityError(f"{place / name}.jsonl was changed after the backup.")
    count = 0
    for path in sorted((folder / "blobs").glob("sha256/??/*")):
        digest, _ = storage.blobs.put_pieces(_pieces(path), expected=f"sha256:{path.name}")
        count += digest == f"sha256:{path.name}"
    tell(f"{count} blobs stored")
    with storage.database.write() as connection:
        connection.execute(hub.delete())
        for table in metadata.sorted_tables:
            if table.name in description["tables"]:
                _load(connection, table, place / f"{table.name}.jsonl")
        _settle_sequences(connection)
        rebuild_all(connection)
    tell(f"{sum(item['rows'] for item in description['tables'].values())} records stored")
    return dict(description)


def _write_records(storage: Storage, folder: Path, stamp: datetime.datetime) -> tuple[dict[str, Any], dict[str, int]]:
    with storage.database.engine.connect() as connection:
        if not storage.database.is_sqlite:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            serial = connection.execute(select(hub.c.number).where(hub.c.key == "serial")).scalar_one()
            place = folder / f"records-{serial}-{stamp:%Y%m%dT%H%M%S%f}"
            place.mkdir()
            tables = {
                table.name: _dump(connection, table, place / f"{table.name}.jsonl")
                for table in metadata.sorted_tables
                if table.name not in _DERIVED
            }
            digests = {row.digest: int(row.size) for row in connection.execute(select(blobs.c.digest, blobs.c.size))}
    description = {
        "format": 1,
        "schema": HEAD,
        "release": __version__,
        "serial": int(serial),
        "at": stamp.isoformat(),
        "records": place.name,
        "tables": tables,
        "blobs": len(digests),
    }
    return description, digests


def _dump(connection: Connection, table: Table, path: Path) -> dict[str, Any]:
    hashed, rows = hashlib.sha256(), 0
    order = list(table.primary_key.columns)
    with path.open("wb") as file:
        for row in connection.execution_options(yield_per=_BATCH).execute(select(table).order_by(*order)).mappings():
            line = json.dumps({key: _plain(value) for key, value in row.items()}, ensure_ascii=False).encode() + b"\n"
            hashed.update(line)
            file.write(line)
            rows += 1
        file.flush()
        os.fsync(file.fileno())
    return {"rows": rows, "sha256": hashed.hexdigest()}


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def _load(connection: Connection, table: Table, path: Path) -> None:
    convert: dict[str, Callable[[Any], Any]] = {}
    for column in table.columns:
        if isinstance(column.type, LargeBinary):
            convert[column.name] = base64.b64decode
        elif isinstance(column.type, Date):
            convert[column.name] = datetime.date.fromisoformat
    batch: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line)
            batch.append({k: convert[k](v) if k in convert and v is not None else v for k, v in row.items()})
            if len(batch) == _BATCH:
                connection.execute(insert(table), batch)
                batch = []
    if batch:
        connection.execute(insert(table), batch)


def _settle_sequences(connection: Connection) -> None:
    """PostgreSQL numbers new rows by sequences, which know nothing of rows that came with their numbers."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        if (
            "id" in table.c
            and table.c.id.primary_key
            and table.c.id.autoincrement is not False
            and table.c.id.type.python_type is int
        ):
            connection.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                    f"GREATEST((SELECT COALESCE(MAX(id), 0) FROM {table.name}), 1))"
                )
            )


def _copy_blobs(storage: Storage, folder: Path, digests: dict[str, int], tell: Callable[[str], None]) -> list[str]:
    broken: list[str] = []
    copied = 0
    for digest, size in digests.items():
        target = folder / storage.blobs.path_of(digest)
        if target.exists() and target.stat().st_size == size:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part")
        hashed = hashlib.sha256()
        try:
            with partial.open("wb") as file:
                for piece in storage.blobs.pieces(digest):
                    hashed.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            partial.unlink(missing_ok=True)
            broken.append(digest)
            continue
        if f"sha256:{hashed.hexdigest()}" != digest:
            partial.unlink()
            broken.append(digest)
            continue
        partial.replace(target)
        copied += 1
    tell(f"{copied} new blobs copied, {len(digests) - copied - len(broken)} were there")
    return broken


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1024 * 1024):
            yield piece


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IntegrityError(f"{path} of the backup cannot be read: {error.strerror}.") from error


def _write_json(path: Path, document: Any) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    partial.replace(path)
