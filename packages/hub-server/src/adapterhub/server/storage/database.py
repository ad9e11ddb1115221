"""One door to SQLite (WAL) or PostgreSQL: short read connections, and write transactions that never run in one another's way."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, create_engine, event, make_url, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import hub
from adapterhub.spec.errors import StorageError

__all__ = ["Database", "hub_text", "inserted_id", "next_serial", "open_database"]

_BUSY_SECONDS = 30
_SERIAL = select(hub.c.number).where(hub.c.key == "serial")
_NEXT_SERIAL = update(hub).where(hub.c.key == "serial").values(number=hub.c.number + 1).returning(hub.c.number)


class Database:
    """The SQL side of the storage. `read()` and `write()` yield SQLAlchemy Core connections.

    On SQLite writers of one process queue on a lock, and take the file's write lock at once (`BEGIN IMMEDIATE`), so that
    a transaction that has begun cannot fail for another one's sake. On PostgreSQL the order of commits is that of `next_serial`.
    """

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.dialect: str = self.url.get_backend_name()
        options: dict[str, Any] = {"pool_pre_ping": self.dialect != "sqlite", "pool_size": 8, "max_overflow": 8}
        if self.dialect == "sqlite":
            options["connect_args"] = {"timeout": _BUSY_SECONDS, "check_same_thread": False}
        else:
            options["connect_args"] = {"connect_timeout": 10}
        self.engine = create_engine(self.url, **options)
        self._writers = threading.Lock()
        self._threads = threading.local()
        if self.dialect == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def is_sqlite(self) -> bool:
        """Whether queries are local calls, cheap enough for the event loop."""
        return self.dialect == "sqlite"

    @property
    def path(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one consistent state and changes nothing."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back if it raises.

        Args:
            durable: wait until the disk has it. False is for rows whose loss only repeats work (unfinished uploads).
        """
        if not self.is_sqlite:
            with self.engine.begin() as connection:
                if not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
                yield connection
            return
        with self._writers, self.engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection = connection.execution_options(begin_immediate=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def change(self, *, durable: bool = True) -> Iterator[Connection]:
        """A write for those who decide by what they find: nothing in the hub changes between their look and their commit.

        On SQLite every write is like that. On PostgreSQL it waits here for other changes, where `write` would only wait at
        `next_serial`, with what it has read by then out of date.
        """
        with self.write(durable=durable) as connection:
            if not self.is_sqlite:
                connection.execute(_SERIAL.with_for_update())
            yield connection

    def serial(self) -> int:
        """The hub's counter as it is now: some microseconds on SQLite, a round trip on PostgreSQL."""
        if not self.is_sqlite:
            with self.read() as connection:
                return int(connection.execute(_SERIAL).scalar_one())
        own: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if own is None:
            own = sqlite3.connect(str(self.path), timeout=_BUSY_SECONDS, isolation_level=None)
            self._threads.connection = own
        return int(own.execute("SELECT number FROM hub WHERE key = 'serial'").fetchone()[0])

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`, not by the driver
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-32768",
        "mmap_size=268435456",
        "journal_size_limit=67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def open_database(settings: Settings, *, migrate: bool = True, check: bool = True) -> Database:
    """Open the database of `settings`, checking that it answers and that its schema is ours.

    Args:
        migrate: bring the schema up to date.
        check: without `migrate`, refuse another schema than this release's.

    Raises:
        StorageError: saying in one line what is wrong.
    """
    from adapterhub.server.storage.migrate import bring_up_to_date, check_revision

    shown = settings.database
    try:
        database = Database(settings.database)
        shown = database.url.render_as_string(hide_password=True)
        if database.dialect not in ("sqlite", "postgresql"):
            raise StorageError(f"The database {shown} is neither SQLite nor PostgreSQL.")
        if database.path is not None:
            database.path.parent.mkdir(parents=True, exist_ok=True)
        if migrate:
            bring_up_to_date(database)
        elif check:
            check_revision(database)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise StorageError(
            f"The database address {shown!r} cannot be used: {_first_line(error)}.",
            hint="Use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME (and install adapterhub-server[postgresql]).",
        ) from error
    except DBAPIError as error:
        raise StorageError(f"The database {shown} cannot be used: {_first_line(error.orig)}.") from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"The folder of the database {shown} cannot be used: {error.strerror or error}.") from error
    return database


def _first_line(error: Any) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def next_serial(connection: Connection) -> int:
    """Take the next number of the hub's counter. Writers wait here for one another, so numbers appear in commit order."""
    return int(connection.execute(_NEXT_SERIAL).scalar_one())


def hub_text(connection: Connection, key: str) -> str:
    """A single value of the `hub` table; empty where absent."""
    return str(connection.execute(select(hub.c.text).where(hub.c.key == key)).scalar_one_or_none() or "")


def inserted_id(result: CursorResult[Any]) -> int:
    """The id the database gave to the row just inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise RuntimeError("nothing was inserted")
    return int(key[0])
