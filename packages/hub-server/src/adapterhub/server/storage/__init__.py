"""Where the hub keeps things: rows in a SQL database, bytes by digest in a blob store."""

from __future__ import annotations

import dataclasses

from adapterhub.server.settings import Settings
from adapterhub.server.storage.blobs import BlobStore, open_blob_store
from adapterhub.server.storage.database import Database, open_database

__all__ = ["BlobStore", "Database", "Storage", "open_storage"]


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """The database and the blob store of one hub."""

    database: Database
    blobs: BlobStore

    def close(self) -> None:
        """Give connections back."""
        self.database.close()


def open_storage(settings: Settings, *, migrate: bool = True) -> Storage:
    """Open both stores, creating folders and (with `migrate`) bringing the schema up to date.

    Raises:
        StorageError: a folder that cannot be written, a database that does not answer, a schema of another release.
    """
    blobs = open_blob_store(settings)
    return Storage(open_database(settings, migrate=migrate), blobs)
