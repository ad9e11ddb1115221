"""Adapters written straight into the records, for tests of what is derived from them: no bytes, any number."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hub import Hub
from sqlalchemy import Connection, select, update

from adapterhub.server.accounts.organisations import create_organisation
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.records import add_version, upsert_adapter
from adapterhub.server.storage.tables import adapters, organisations
from adapterhub.spec.config import parse_config
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.reference import fold

_numbers = itertools.count(1)


def entry(namespace: str = "demo", name: str | None = None, **values: Any) -> IndexEntry:
    """An index entry with sensible members; `config` may be a preset string."""
    config = parse_config(values.pop("config", "pfeiffer"))
    expanded = config.expand()
    return IndexEntry(
        namespace=namespace,
        name=name or f"adapter-{next(_numbers)}",
        version=values.pop("version", "1"),
        model_name=values.pop("model", "bert-base-uncased"),
        task=values.pop("task", "sentiment"),
        subtask=values.pop("subtask", "sst-2"),
        method=str(expanded["method"]),
        using=values.pop("using", "pfeiffer"),
        config=expanded,
        config_id=config.config_id,
        **values,
    )


def add(
    connection: Connection, item: IndexEntry, *, downloads: int = 0, description: str = "", private: bool = False
) -> int:
    """Write one version of one adapter; returns the adapter's id. Nothing derived is told."""
    owner = connection.execute(select(organisations).where(organisations.c.key == fold(item.namespace))).first()
    if owner is None:
        create_organisation(connection, item.namespace, private=private, allow_reserved=True)
        owner = connection.execute(select(organisations).where(organisations.c.key == fold(item.namespace))).one()
    serial = next_serial(connection)
    adapter_id, kept = upsert_adapter(connection, owner, item, serial, description=description)
    add_version(connection, adapter_id, kept, serial)
    connection.execute(update(adapters).where(adapters.c.id == adapter_id).values(downloads=downloads))
    return adapter_id


def fill(hub: Hub | Storage, items: Sequence[tuple[IndexEntry, dict[str, Any]] | IndexEntry]) -> list[int]:
    """Write adapters in one transaction and bring everything derived up to date; returns their ids."""
    storage: Storage = getattr(hub, "storage", hub)
    with storage.database.write() as connection:
        ids = [
            add(connection, item) if isinstance(item, IndexEntry) else add(connection, item[0], **item[1])
            for item in items
        ]
        project(connection, ids)
    return ids
