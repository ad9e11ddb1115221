"""Writing many rows at once: straight to the driver, secondary indexes afterwards, and as few writes to the file as may be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, insert
from sqlalchemy.schema import CreateIndex, DropIndex

__all__ = ["bulk_insert", "indexes_afterwards"]

_BATCH = 5000
_FEW = 50
_CACHE_KIB = 262_144


def bulk_insert(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert rows that all have the same members; returns how many. Values go to the driver as they are.

    On PostgreSQL they are copied; on SQLite one statement is prepared once.
    """
    left = iter(rows)
    done = 0
    while batch := list(islice(left, _BATCH)):
        done += len(batch)
        if len(batch) < _FEW:
            connection.execute(insert(table), batch)
            continue
        names = [column.key for column in table.columns if column.key in batch[0]]  # the order of the statement
        values = [tuple(map(row.__getitem__, names)) for row in batch]
        if connection.dialect.name == "sqlite":
            statement = insert(table).compile(dialect=connection.dialect, column_keys=names)
            connection.exec_driver_sql(str(statement), values)
        else:
            _copy(connection, table, names, values)
    return done


def _copy(connection: Connection, table: Table, names: list[str], values: list[tuple[Any, ...]]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(quote(name) for name in names)
    raw: Any = connection.connection.dbapi_connection
    with raw.cursor() as cursor, cursor.copy(f"COPY {quote(table.name)} ({columns}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)


@contextlib.contextmanager
def indexes_afterwards(connection: Connection, *tables: Table) -> Iterator[None]:
    """Take the secondary indexes of these tables away, and build them when the block has written its rows.

    On SQLite only, where readers keep seeing the state before; on PostgreSQL they would wait for the end of the transaction.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    indexes = [index for table in tables for index in sorted(table.indexes, key=lambda index: str(index.name))]
    before = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    connection.exec_driver_sql(f"PRAGMA cache_size=-{_CACHE_KIB}")
    try:
        for index in indexes:
            connection.execute(DropIndex(index, if_exists=True))
        yield
        for index in indexes:
            connection.execute(CreateIndex(index))
    finally:
        connection.exec_driver_sql(f"PRAGMA cache_size={before}")
