"""Manifests and blobs by digest, for those who may see them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from sqlalchemy import Connection, and_, exists, literal, or_, select, true

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.tables import adapters, blob_owners, blobs, manifests, version_files, versions
from adapterhub.spec.errors import AdapterHubError, AdapterNotFoundError

__all__ = ["ByteRange", "RangeError", "blob_size", "manifest_bytes", "parse_range"]

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


class RangeError(AdapterHubError):
    """A range that does not touch the file."""

    code = "Error"
    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"The range is outside the {size} bytes of the file.")
        self.headers = {"Content-Range": f"bytes */{size}"}


@dataclasses.dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `end` (exclusive) of a file of `size` bytes."""

    start: int
    end: int
    size: int

    @property
    def is_all(self) -> bool:
        return self.start == 0 and self.end == self.size

    @property
    def header(self) -> str:
        """The value of `Content-Range`."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The single range a `Range` header asks for; None for no range, several, or another unit (RFC 9110: send all).

    Raises:
        RangeError: the range starts behind the end.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if not found:
        return None
    if found[3] is not None:
        start, end = max(0, size - int(found[3])), size
        if int(found[3]) == 0:
            raise RangeError(size)
    else:
        start = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= size:
        raise RangeError(size)
    return ByteRange(start, end, size)


def blob_size(connection: Connection, digest: str, viewer: Viewer) -> int:
    """Bytes of the blob `digest`.

    Raises:
        AdapterNotFoundError: there is none, or none this viewer may see; the two look alike.
    """
    used = exists(
        select(literal(1))
        .select_from(version_files)
        .join(versions, versions.c.id == version_files.c.version_id)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(version_files.c.digest == blobs.c.digest, _visible(viewer))
    )
    seen: Any = used
    if viewer.organisation_id is not None and viewer.sees_private:
        brought = exists(
            select(literal(1)).where(
                blob_owners.c.digest == blobs.c.digest, blob_owners.c.organisation_id == viewer.organisation_id
            )
        )
        seen = or_(used, brought)
    elif viewer.is_operator:
        seen = true()
    size = connection.execute(select(blobs.c.size).where(blobs.c.digest == digest, seen)).scalar_one_or_none()
    if size is None:
        raise AdapterNotFoundError(f"There is no blob {digest}.")
    return int(size)


def manifest_bytes(connection: Connection, digest: str, viewer: Viewer) -> bytes:
    """The manifest `digest`. Raises AdapterNotFoundError for what is not there or not to be seen."""
    body = connection.execute(
        select(manifests.c.body).where(
            manifests.c.digest == digest,
            exists(
                select(literal(1))
                .select_from(versions)
                .join(adapters, adapters.c.id == versions.c.adapter_id)
                .where(versions.c.digest == manifests.c.digest, _visible(viewer))
            ),
        )
    ).scalar_one_or_none()
    if body is None:
        raise AdapterNotFoundError(f"There is no manifest {digest}.")
    return bytes(body)


def _visible(viewer: Viewer) -> Any:
    """Published and not hidden; the organisation's own people also see what waits for review."""
    published = and_(versions.c.state == "published", viewer.sees(adapters))
    if viewer.organisation_id is None or not viewer.sees_private:
        return published
    return or_(published, and_(versions.c.state == "pending", adapters.c.organisation_id == viewer.organisation_id))
