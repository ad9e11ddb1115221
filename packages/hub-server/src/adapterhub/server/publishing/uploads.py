"""Resumable uploads: a session, pieces at offsets, and a digest that must come out.

Pieces go straight to the blob store, so that any replica can take the next one. The common case of one piece is hashed
while it arrives and only renamed at the end.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError as UniqueViolation
from starlette.concurrency import run_in_threadpool

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.publishing.room import room, room_left, too_large
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.blobs import DIGEST, Part
from adapterhub.server.storage.tables import blob_owners, blobs, now, upload_parts, uploads
from adapterhub.spec.errors import (
    AdapterNotFoundError,
    IntegrityError,
    PublishError,
    QuotaExceededError,
    ValidationFailedError,
)

__all__ = [
    "OffsetError",
    "append",
    "begin_upload",
    "discard_upload",
    "finish",
    "offset_of",
    "sweep_uploads",
    "upload_whole",
]


_SMALL = 256 * 1024  # whole files up to this size are taken in memory and stored in one step
_MOST_PIECES = 10_000  # of one upload: each is an object in the store
_BROUGHT = (
    select(blobs.c.size)
    .join(blob_owners, blob_owners.c.digest == blobs.c.digest)
    .where(blobs.c.digest == bindparam("digest"), blob_owners.c.organisation_id == bindparam("organisation"))
)


class OffsetError(PublishError):
    """A piece that does not start where the upload ends. `headers` carries the right offset."""

    def __init__(self, expected: int) -> None:
        super().__init__(
            f"The upload continues at byte {expected}.",
            hint="Ask with HEAD and send from there.",
            details={"upload_offset": expected},
        )
        self.headers = {"Upload-Offset": str(expected)}


def begin_upload(storage: Storage, settings: Settings, viewer: Viewer) -> dict[str, Any]:
    """Open an upload session for the viewer's organisation."""
    viewer.require("publish")
    upload_id = secrets.token_hex(16)
    expires = now(hours=settings.upload_hours)
    with storage.database.write(durable=False) as connection:
        connection.execute(
            insert(uploads).values(
                id=upload_id,
                organisation_id=viewer.organisation_id,
                token_id=viewer.token_id,
                created_at=now(),
                expires_at=expires,
            )
        )
    return {"id": upload_id, "location": f"/v1/uploads/{upload_id}", "offset": 0, "expires_at": expires}


def offset_of(storage: Storage, upload_id: str, viewer: Viewer) -> int:
    """How many bytes of an upload have arrived."""
    viewer.require("publish")
    with storage.database.read() as connection:
        _session(connection, upload_id, viewer)
        return _offset(connection, upload_id)


async def append(
    storage: Storage, settings: Settings, upload_id: str, viewer: Viewer, offset: int, pieces: AsyncIterable[bytes]
) -> int:
    """Take bytes from `offset` on; returns the new offset. What arrived before a broken connection counts.

    Raises:
        OffsetError: `offset` is not where the upload ends, or another request is faster.
        QuotaExceededError: more bytes than a file, or the organisation, may have.
    """
    expected, allowed = await run_in_threadpool(_prepare, storage, settings, upload_id, viewer)
    if offset != expected:
        raise OffsetError(expected)
    part, failure = await storage.blobs.write_part(upload_id, offset, pieces, allowed)
    if isinstance(failure, OverflowError) or not part.size:
        await run_in_threadpool(storage.blobs.discard, [part.path])
    else:
        await run_in_threadpool(_note_part, storage, upload_id, part)
    if isinstance(failure, OverflowError):
        raise too_large(offset + allowed)
    if failure is not None:
        raise failure
    return offset + part.size


def finish(storage: Storage, upload_id: str, viewer: Viewer, digest: str) -> dict[str, Any]:
    """Close an upload whose bytes hash to `digest`. Asked again, because the answer was lost, it answers the same.

    Raises:
        IntegrityError: they do not; the upload is gone and has to be sent again.
    """
    viewer.require("publish")
    _check_digest(digest)
    with storage.database.read() as connection:
        try:
            session = _session(connection, upload_id, viewer)
        except AdapterNotFoundError:
            row = connection.execute(_BROUGHT, {"digest": digest, "organisation": viewer.organisation_id}).first()
            if row is None:
                raise
            return {"digest": digest, "size": int(row.size)}
        rows = connection.execute(
            select(upload_parts).where(upload_parts.c.upload_id == upload_id).order_by(upload_parts.c.start)
        ).all()
    parts = [Part(row.start, row.size, row.path, row.digest) for row in rows]
    if not parts:
        parts = [_empty_part(storage, upload_id)]
    try:
        found = storage.blobs.join(parts, digest)
    except FileNotFoundError:
        raise AdapterNotFoundError(f"The upload {upload_id} was finished or discarded meanwhile.") from None
    size = sum(part.size for part in parts)
    if found != digest:
        _forget(storage, upload_id, [part.path for part in parts])
        raise IntegrityError(
            f"The {size} bytes uploaded have the digest {found}, not {digest}; the upload was discarded.",
            hint="Send the file again.",
            details={"reason": "DigestMismatch", "found": found, "expected": digest},
        )
    _keep(storage, digest, size, session.organisation_id, upload_id)
    storage.blobs.discard([part.path for part in parts])
    return {"digest": digest, "size": size}


async def upload_whole(
    storage: Storage, settings: Settings, viewer: Viewer, digest: str, pieces: AsyncIterable[bytes]
) -> dict[str, Any]:
    """A whole file in one request."""
    viewer.require("publish")
    _check_digest(digest)
    data, pieces = await _small(pieces)
    if data is not None:
        await run_in_threadpool(_store_small, storage, settings, viewer, digest, data)
        return {"digest": digest, "size": len(data)}
    allowed = await run_in_threadpool(room, storage, settings, viewer.organisation_id)
    upload_id = secrets.token_hex(16)
    part, failure = await storage.blobs.write_part(upload_id, 0, pieces, allowed)
    if failure is not None or part.digest != digest:
        await run_in_threadpool(storage.blobs.discard, [part.path])
        if isinstance(failure, OverflowError):
            raise too_large(allowed)
        if failure is not None:
            raise failure
        raise _mismatch(part.size, part.digest, digest)

    def settle() -> None:
        storage.blobs.adopt(part.path, digest)
        _keep(storage, digest, part.size, viewer.organisation_id)

    await run_in_threadpool(settle)
    return {"digest": digest, "size": part.size}


async def _small(pieces: AsyncIterable[bytes]) -> tuple[bytes | None, AsyncIterable[bytes]]:
    """The whole body if it is small; else None, and the body."""
    iterator = aiter(pieces)
    found: list[bytes] = []
    size = 0
    async for piece in iterator:
        found.append(piece)
        size += len(piece)
        if size > _SMALL:
            break
    else:
        return b"".join(found), iterator

    async def whole() -> AsyncIterator[bytes]:
        yield b"".join(found)
        async for piece in iterator:
            yield piece

    return None, whole()


def _store_small(storage: Storage, settings: Settings, viewer: Viewer, digest: str, data: bytes) -> None:
    allowed = room(storage, settings, viewer.organisation_id)
    if len(data) > allowed:
        raise too_large(allowed)
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        raise _mismatch(len(data), found, digest)
    storage.blobs.put(data)
    _keep(storage, digest, len(data), viewer.organisation_id)


def _mismatch(size: int, found: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"The {size} bytes sent have the digest {found}, not {expected}; they were discarded.",
        hint="Send the file again.",
        details={"reason": "DigestMismatch", "found": found, "expected": expected},
    )


def discard_upload(storage: Storage, upload_id: str, viewer: Viewer) -> None:
    """Forget an upload and its bytes."""
    viewer.require("publish")
    with storage.database.read() as connection:
        _session(connection, upload_id, viewer)
        paths = list(
            connection.execute(select(upload_parts.c.path).where(upload_parts.c.upload_id == upload_id)).scalars()
        )
    _forget(storage, upload_id, paths)


def sweep_uploads(storage: Storage) -> int:
    """Drop uploads that were left unfinished; returns how many. Run now and then, by any replica."""
    with storage.database.read() as connection:
        old = list(connection.execute(select(uploads.c.id).where(uploads.c.expires_at < now()).limit(1000)).scalars())
        paths = {
            upload_id: list(
                connection.execute(select(upload_parts.c.path).where(upload_parts.c.upload_id == upload_id)).scalars()
            )
            for upload_id in old
        }
    for upload_id in old:
        _forget(storage, upload_id, paths[upload_id])
    return len(old)


def _prepare(storage: Storage, settings: Settings, upload_id: str, viewer: Viewer) -> tuple[int, int]:
    viewer.require("publish")
    with storage.database.read() as connection:
        session = _session(connection, upload_id, viewer)
        offset = _offset(connection, upload_id)
        left = room_left(storage, connection, settings, session.organisation_id)
        count = select(func.count()).select_from(upload_parts).where(upload_parts.c.upload_id == upload_id)
        pieces = connection.execute(count).scalar_one()
    allowed = min(left, settings.max_file_bytes - offset)
    if allowed <= 0:
        raise too_large(settings.max_file_bytes)
    if pieces >= _MOST_PIECES:
        raise QuotaExceededError(
            f"The upload has {pieces} pieces already.", hint="Send larger ones.", details={"limit": _MOST_PIECES}
        )
    return offset, allowed


def _check_digest(digest: str) -> None:
    if not DIGEST.fullmatch(digest):
        raise ValidationFailedError(
            f"{digest[:80]!r} is no digest.",
            hint="Write sha256: and 64 lower-case hex digits.",
            problems=[{"pointer": "/query/digest", "message": "no sha256 digest", "hint": "", "severity": "error"}],
        )


def _session(connection: Connection, upload_id: str, viewer: Viewer) -> Row[Any]:
    row = connection.execute(select(uploads).where(uploads.c.id == upload_id, uploads.c.expires_at > now())).first()
    if row is None or row.organisation_id != viewer.organisation_id:
        raise AdapterNotFoundError(
            f"There is no upload {upload_id[:64]!r}.", hint="It was finished, discarded, or is too old."
        )
    return row


def _offset(connection: Connection, upload_id: str) -> int:
    total = select(func.coalesce(func.sum(upload_parts.c.size), 0)).where(upload_parts.c.upload_id == upload_id)
    return int(connection.execute(total).scalar_one())


def _note_part(storage: Storage, upload_id: str, part: Part) -> None:
    try:
        with storage.database.write(durable=False) as connection:
            expected = _offset(connection, upload_id)
            if expected == part.start:
                connection.execute(
                    insert(upload_parts).values(
                        upload_id=upload_id, start=part.start, size=part.size, path=part.path, digest=part.digest
                    )
                )
                return
    except UniqueViolation:
        with storage.database.read() as connection:
            expected = _offset(connection, upload_id)
    storage.blobs.discard([part.path])
    raise OffsetError(expected)


def _empty_part(storage: Storage, upload_id: str) -> Part:
    import obstore

    path = f"uploads/{upload_id}/{'0' * 20}-empty"
    obstore.put(storage.blobs.store, path, b"")
    return Part(0, 0, path, f"sha256:{hashlib.sha256(b'').hexdigest()}")


def _forget(storage: Storage, upload_id: str, paths: list[str]) -> None:
    with storage.database.write(durable=False) as connection:
        _delete_session(connection, upload_id)
    storage.blobs.discard(paths)


def _delete_session(connection: Connection, upload_id: str) -> None:
    connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id))
    connection.execute(delete(uploads).where(uploads.c.id == upload_id))


def _keep(storage: Storage, digest: str, size: int, organisation_id: int | None, upload_id: str | None = None) -> None:
    """Note a finished blob and who brought it; with that, in one step, its upload is over.

    Raises:
        IntegrityError: a prune has just removed row and bytes.
    """
    moment = now()
    with storage.database.write(durable=False) as connection:
        if not insert_missing(connection, blobs, {"digest": digest, "size": size, "created_at": moment}):
            # brought again, so wanted again: a prune that waits for this row leaves it alone
            connection.execute(update(blobs).where(blobs.c.digest == digest).values(created_at=moment))
        if organisation_id is not None:
            owner = {"digest": digest, "organisation_id": organisation_id, "created_at": moment}
            insert_missing(connection, blob_owners, owner)
        if storage.blobs.size(digest) is None:
            raise IntegrityError(f"The bytes of {digest} were removed meanwhile.", hint="Send the file again.")
        if upload_id is not None:
            _delete_session(connection, upload_id)


def insert_missing(connection: Connection, table: Any, values: dict[str, Any]) -> bool:
    """Insert a row unless its key is there already; whether it was inserted."""
    # a count of rows would be -1 with some drivers, so the row itself is asked for
    return connection.execute(_inserting_missing(connection.dialect.name, table), values).first() is not None


@lru_cache(maxsize=16)
def _inserting_missing(dialect: str, table: Any) -> Any:
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as lenient
    else:
        from sqlalchemy.dialects.postgresql import insert as lenient  # type: ignore[assignment]
    return lenient(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
