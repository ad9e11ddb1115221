"""How many bytes an organisation may still bring: its limit, less its versions, less what it brought and never published."""

from __future__ import annotations

import time
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, bindparam, exists, func, literal, select

from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import Database
from adapterhub.server.storage.tables import (
    blob_owners,
    blobs,
    now,
    organisations,
    upload_parts,
    uploads,
    version_files,
)
from adapterhub.spec.errors import QuotaExceededError

__all__ = ["room", "room_left", "too_large"]

#: hours for which a file no version uses counts: after that, `verify --prune` may delete it
_WAITING_HOURS = 48
#: seconds for which the bytes that wait are not added up again
_FRESH_SECONDS = 10.0

_ORGANISATION = select(organisations).where(organisations.c.id == bindparam("organisation"))
_UNUSED = (
    select(func.coalesce(func.sum(blobs.c.size), 0))
    .join(blob_owners, blob_owners.c.digest == blobs.c.digest)
    .where(
        blob_owners.c.organisation_id == bindparam("organisation"),
        blob_owners.c.created_at > bindparam("since"),
        ~exists(select(literal(1)).where(version_files.c.digest == blobs.c.digest)),
    )
)
_UNFINISHED = (
    select(func.coalesce(func.sum(upload_parts.c.size), 0))
    .join(uploads, uploads.c.id == upload_parts.c.upload_id)
    .where(uploads.c.organisation_id == bindparam("organisation"))
)
#: organisation → when the bytes that wait were added up, and how many they were
_waiting: WeakKeyDictionary[Database, dict[int, tuple[float, int]]] = WeakKeyDictionary()


def room(storage: Storage, settings: Settings, organisation_id: int | None) -> int:
    """As `room_left`, in a transaction of its own."""
    with storage.database.read() as connection:
        return room_left(storage, connection, settings, organisation_id)


def room_left(storage: Storage, connection: Connection, settings: Settings, organisation_id: int | None) -> int:
    """How many bytes the next file of an organisation may have. None is the operator's own token, which has no limit but
    that of a file.

    Where there is room for more than a largest file, what waits may be known as of ten seconds ago: uploads that run at the
    same time can bring so much more than the limit; the next one is refused.

    Raises:
        QuotaExceededError: none at all (status 413).
    """
    largest = settings.max_file_bytes
    if organisation_id is None:
        return largest
    row = connection.execute(_ORGANISATION, {"organisation": organisation_id}).one()
    limit = int(row.max_bytes if row.max_bytes is not None else settings.organisation_bytes)
    used = int(row.used_bytes)
    known = _waiting.setdefault(storage.database, {})
    since, waiting = known.get(organisation_id, (-_FRESH_SECONDS, 0))
    if time.monotonic() - since >= _FRESH_SECONDS or limit - used - waiting < largest:
        waiting = _bytes_waiting(connection, organisation_id)
        known[organisation_id] = (time.monotonic(), waiting)
    left = limit - used - waiting
    if left <= 0:
        unpublished = f", {waiting} of them in files that are not published yet" if waiting else ""
        error = QuotaExceededError(
            f"{row.name} has used its {limit} bytes{unpublished}.",
            hint="Publish or discard what was uploaded, delete versions, or ask the operator for more.",
            details={"limit": limit, "unpublished": waiting},
        )
        error.http_status = 413  # type: ignore[attr-defined]
        raise error
    return min(largest, left)


def _bytes_waiting(connection: Connection, organisation_id: int) -> int:
    values: dict[str, Any] = {"organisation": organisation_id, "since": now(hours=-_WAITING_HOURS)}
    unfinished = connection.execute(_UNFINISHED, {"organisation": organisation_id}).scalar_one()
    return int(connection.execute(_UNUSED, values).scalar_one()) + int(unfinished)


def too_large(limit: int) -> QuotaExceededError:
    """The error of a file with more bytes than are allowed (status 413)."""
    error = QuotaExceededError(
        f"The file is larger than the {limit} bytes allowed.", hint="Nothing of it was kept.", details={"limit": limit}
    )
    error.http_status = 413  # type: ignore[attr-defined]
    return error
