"""Writing adapters and versions: the one place that knows how an index entry becomes rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from adapterhub.server.storage.database import inserted_id
from adapterhub.server.storage.tables import adapters, now, organisations, versions
from adapterhub.spec.index import IndexEntry, bucket_of, model_bucket_of
from adapterhub.spec.reference import fold

__all__ = ["add_version", "entry_of", "find_adapter", "refresh_lines", "upsert_adapter"]


# Statements of the way of a publish, built once.
_ADAPTER = select(adapters).where(
    adapters.c.organisation_id == bindparam("organisation"), adapters.c.key == bindparam("key")
)
_LISTED = (
    select(versions.c.id).where(versions.c.adapter_id == bindparam("adapter"), versions.c.state == "published").limit(1)
)
_INSERT_ADAPTER = insert(adapters)
_INSERT_VERSION = insert(versions)
_TOUCH = update(adapters).where(adapters.c.id == bindparam("touched"))


def find_adapter(connection: Connection, organisation_id: int, name: str) -> Row[Any] | None:
    """The row of an adapter by its name, however spelt."""
    return connection.execute(_ADAPTER, {"organisation": organisation_id, "key": fold(name)}).first()


def upsert_adapter(
    connection: Connection, organisation: Row[Any], entry: IndexEntry, serial: int, **texts: str
) -> tuple[int, IndexEntry]:
    """The id of the adapter an entry belongs to, made if new; and the entry in the spelling the hub keeps.

    Args:
        texts: description, card, citation of a new adapter.
    """
    row = find_adapter(connection, organisation.id, entry.name)
    if row is not None:
        kept = dataclasses.replace(
            entry,
            namespace=organisation.name,
            name=row.name,
            task=row.task,
            subtask=row.subtask,
            default_version=row.default_version,
        )
        return int(row.id), kept
    moment = now()
    kept = dataclasses.replace(entry, namespace=organisation.name)
    result = connection.execute(
        _INSERT_ADAPTER,
        dict(
            organisation_id=organisation.id,
            name=entry.name,
            key=fold(entry.name),
            model_name=entry.model_name,
            task=entry.task,
            subtask=entry.subtask,
            task_key=fold(entry.task),
            subtask_key=fold(entry.subtask),
            type=entry.type,
            method=entry.method,
            using=entry.using,
            license=entry.license,
            language=entry.language,
            default_version=entry.default_version,
            created_at=moment,
            updated_at=moment,
            private=organisation.private,
            listed=False,
            serial=serial,
            **texts,
        ),
    )
    return inserted_id(result), kept


def add_version(
    connection: Connection,
    adapter_id: int,
    entry: IndexEntry,
    serial: int,
    *,
    state: str = "published",
    token_id: int | None = None,
    moment: str | None = None,
) -> int:
    """Insert one version; returns its id. The unique constraint on (adapter, version) refuses a second one of that name."""
    moment = moment or now()
    result = connection.execute(
        _INSERT_VERSION,
        {
            "adapter_id": adapter_id,
            "version": entry.version,
            "digest": entry.digest,
            "state": state,
            "yanked": entry.yanked,
            "yanked_reason": entry.yanked_reason or "",
            "line": entry.to_json_line(),
            "bucket": bucket_of(entry.model_name, entry.task, entry.subtask),
            "model_bucket": model_bucket_of(entry.model_name),
            "config_id": entry.config_id or "",
            "size": entry.size or 0,
            "token_id": token_id,
            "created_at": moment,
            "published_at": moment if state == "published" else None,
            "serial": serial,
        },
    )
    if state == "published":
        touch(connection, adapter_id, serial, entry)
    return inserted_id(result)


def touch(connection: Connection, adapter_id: int, serial: int, entry: IndexEntry | None = None) -> None:
    """Note that an adapter changed; with `entry` its newest version's properties become the adapter's."""
    values: dict[str, Any] = {
        "serial": serial,
        "updated_at": now(),
        "listed": connection.execute(_LISTED, {"adapter": adapter_id}).first() is not None,
    }
    if entry is not None:
        values |= {
            "method": entry.method,
            "using": entry.using,
            "license": entry.license,
            "language": entry.language,
        }
    connection.execute(_TOUCH, {**values, "touched": adapter_id})


def entry_of(line: str) -> IndexEntry:
    """The entry written in an index line."""
    return IndexEntry.from_json(json.loads(line))


def refresh_lines(
    connection: Connection, adapter_id: int, serial: int, changes: Mapping[str, Any] | None = None
) -> None:
    """Write the lines of an adapter anew after its default version, a yank or the like changed.

    Args:
        changes: members that change in every line.
    """
    row = connection.execute(select(adapters.c.default_version).where(adapters.c.id == adapter_id)).one()
    found = connection.execute(select(versions).where(versions.c.adapter_id == adapter_id)).all()
    for version in found:
        entry = dataclasses.replace(
            entry_of(version.line),
            yanked=version.yanked,
            yanked_reason=version.yanked_reason or None,
            default_version=row.default_version,
            **dict(changes or {}),
        )
        line = entry.to_json_line()
        if line != version.line:
            connection.execute(update(versions).where(versions.c.id == version.id).values(line=line))
    touch(connection, adapter_id, serial)


def organisations_of(connection: Connection, ids: Iterable[int]) -> dict[int, Row[Any]]:
    """Rows of organisations by id."""
    return {row.id: row for row in connection.execute(select(organisations).where(organisations.c.id.in_(list(ids))))}
