"""Schema migrations: Alembic, run by the server itself, skipped in microseconds when the schema is already right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from adapterhub.spec.errors import StorageError

if TYPE_CHECKING:
    from alembic.config import Config

    from adapterhub.server.storage.database import Database

__all__ = ["HEAD", "bring_up_to_date", "check_revision"]

#: the newest revision in migrations/versions; a test keeps it true
HEAD = "0009"

_PLACE = Path(__file__).parent / "migrations"
_LOCK = 0x41684275  # advisory lock on PostgreSQL: replicas that start together migrate one after the other


def bring_up_to_date(database: Database) -> str | None:
    """Run what is missing, in one transaction. Returns the revision before, or None for a new database.

    Raises:
        StorageError: the schema was written by a newer release, or the database belongs to something else.
    """
    with database.read() as connection:
        found = _revision(connection)
    if found == HEAD:
        return found
    _refuse_newer(found, database)
    from alembic import command

    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = _revision(connection)
        if found != HEAD:
            command.upgrade(_config(connection), HEAD)
    return found


def check_revision(database: Database) -> None:
    """Raise StorageError unless the schema is exactly this release's."""
    with database.read() as connection:
        found = _revision(connection)
    _refuse_newer(found, database)
    if found != HEAD:
        raise StorageError(
            f"The schema of {database.url.render_as_string(hide_password=True)} is {found or 'missing'}, this release needs {HEAD}.",
            hint="Run `adapterhub-server migrate`.",
        )


def _revision(connection: Connection) -> str | None:
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables:
        return (
            str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "") or None
        )
    if tables:
        raise StorageError(
            f"The database {connection.engine.url.render_as_string(hide_password=True)} holds other tables and no hub.",
            hint="Give the hub a database of its own.",
        )
    return None


def _refuse_newer(found: str | None, database: Database) -> None:
    known = {path.stem.split("_")[0] for path in (_PLACE / "versions").glob("*.py")}
    if found is not None and found not in known:
        raise StorageError(
            f"The database {database.url.render_as_string(hide_password=True)} was written by a newer release (schema {found}).",
            hint="Update adapterhub-server.",
        )


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_PLACE).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
