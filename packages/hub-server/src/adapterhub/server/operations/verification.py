"""Is everything as it was promised: every blob hashed again, every reference followed, every index line computed anew."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, func, literal, select, union
from sqlalchemy.exc import IntegrityError as UniqueViolation

from adapterhub.server.federation.tables import upstream_blobs
from adapterhub.server.moderation.audit import check_chain
from adapterhub.server.moderation.weights import check_missing
from adapterhub.server.publishing.service import entry_for
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import rebuild_all
from adapterhub.server.storage.records import entry_of
from adapterhub.server.storage.tables import (
    adapters,
    blob_owners,
    blobs,
    manifests,
    now,
    organisations,
    time_text,
    upload_parts,
    version_files,
    versions,
)
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.index import bucket_of, model_bucket_of
from adapterhub.spec.manifest import Manifest
from adapterhub.spec.reference import fold

__all__ = ["Report", "prune", "prune_pulled", "verify"]

_PRUNE_HOURS = 48


@dataclasses.dataclass(slots=True)
class Report:
    """What was looked at and what was found.

    Attributes:
        problems: one sentence each; empty when all is well.
        unused: stored blobs that no version uses.
        rebuilt: what was computed anew.
    """

    blobs: int = 0
    bytes: int = 0
    versions: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    removed: int = 0
    rebuilt: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return dataclasses.asdict(self)


def verify(
    storage: Storage,
    *,
    hash_blobs: bool = True,
    rebuild: bool = False,
    drop_corrupt: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Check records and bytes against one another.

    Args:
        hash_blobs: read and hash every blob; without it only sizes are compared.
        rebuild: compute search, counters and word lists anew from the records.
        drop_corrupt: delete bytes that do not hash to their digest, so that they can be uploaded again.
    """
    report = Report()
    _check_blobs(storage, report, hash_blobs=hash_blobs, drop_corrupt=drop_corrupt)
    tell(f"{report.blobs} blobs looked at, {report.bytes} bytes")
    with storage.database.read() as connection:
        _check_versions(connection, report)
        _check_organisations(connection, report)
        report.problems += check_chain(connection)
    tell(f"{report.versions} versions looked at")
    if rebuild:
        with storage.database.change() as connection:  # what is published meanwhile must not be missed
            report.rebuilt = rebuild_all(connection)
        check_missing(storage)
        tell(f"computed anew: {', '.join(report.rebuilt)}")
    return report


def prune(storage: Storage, *, hours: float = _PRUNE_HOURS) -> int:
    """Delete blobs that no version uses and that were uploaded more than `hours` ago, and what killed processes left
    behind; returns how many objects.

    Row and bytes go in one transaction; an upload of the same bytes that comes in between notices and asks for them again.
    """
    removed = _prune_pieces(storage, hours)
    _note_strays(storage, hours)
    with storage.database.read() as connection:
        candidates = list(connection.execute(select(blobs.c.digest).where(*_unwanted(hours))).scalars())
    for digest in candidates:
        with contextlib.suppress(UniqueViolation), storage.database.change() as connection:  # brought again just now
            here = blobs.c.digest == digest
            if connection.execute(select(blobs.c.digest).where(here, *_unwanted(hours))).first() is None:
                continue
            connection.execute(delete(blob_owners).where(blob_owners.c.digest == digest))
            if connection.execute(delete(blobs).where(here, *_unwanted(hours))).rowcount:
                storage.blobs.delete(digest)
                removed += 1
    return removed


def prune_pulled(storage: Storage, *, days: float) -> int:
    """Delete the bytes of upstream's blobs that were pulled more than `days` ago and that no version here uses; returns how
    many. They are pulled again when somebody asks for them."""
    with storage.database.read() as connection:
        old = list(
            connection.execute(
                select(upstream_blobs.c.digest, upstream_blobs.c.size).where(
                    upstream_blobs.c.fetched_at < now(hours=-24 * days),
                    ~exists(select(literal(1)).where(blobs.c.digest == upstream_blobs.c.digest)),
                )
            ).all()
        )
    removed = 0
    for digest, size in old:
        with storage.database.change() as connection:
            # with a row of its own for the moment: who uploads the same bytes now waits, and notices that they are gone
            if not insert_missing(connection, blobs, {"digest": digest, "size": size, "created_at": now()}):
                continue
            if storage.blobs.size(digest) is not None:
                storage.blobs.delete(digest)
                removed += 1
            connection.execute(delete(blobs).where(blobs.c.digest == digest))
    return removed


def _prune_pieces(storage: Storage, hours: float) -> int:
    """Delete pieces that belong to no upload."""
    old = set(storage.blobs.pieces_before(datetime.now(UTC) - timedelta(hours=hours)))
    with storage.database.read() as connection:
        lost = sorted(old.difference(connection.execute(select(upload_parts.c.path)).scalars()))
    storage.blobs.discard(lost)
    return len(lost)


def _note_strays(storage: Storage, hours: float) -> None:
    """Bytes got their name, and the process died before it could write that down: make up for it, so that they can go."""
    with storage.database.read() as connection:
        known = set(connection.execute(union(select(blobs.c.digest), select(upstream_blobs.c.digest))).scalars())
    for blob in storage.blobs.stored():
        if blob.digest not in known and time_text(blob.modified) < now(hours=-hours):
            with storage.database.write() as connection:
                row = {"digest": blob.digest, "size": blob.size, "created_at": time_text(blob.modified)}
                insert_missing(connection, blobs, row)


def _unused() -> Any:
    return ~exists(select(literal(1)).where(version_files.c.digest == blobs.c.digest))


def _unwanted(hours: float) -> tuple[Any, ...]:
    return _unused(), blobs.c.created_at < now(hours=-hours)


def _check_blobs(storage: Storage, report: Report, *, hash_blobs: bool, drop_corrupt: bool) -> None:
    with storage.database.read() as connection:
        known = {row.digest: int(row.size) for row in connection.execute(select(blobs.c.digest, blobs.c.size))}
        report.unused = list(connection.execute(select(blobs.c.digest).where(_unused())).scalars())
    stored = {blob.digest: blob.size for blob in storage.blobs.stored()}
    for digest, size in known.items():
        report.blobs += 1
        report.bytes += size
        if digest not in stored:
            report.problems.append(f"blob {digest}: its bytes are missing")
            continue
        wrong = ""
        if stored[digest] != size:
            wrong = f"has {stored[digest]} bytes, not {size}"
        elif hash_blobs:
            hashed = hashlib.sha256()
            for piece in storage.blobs.pieces(digest):
                hashed.update(piece)
            found = f"sha256:{hashed.hexdigest()}"
            wrong = "" if found == digest else f"hashes to {found}"
        if wrong:
            report.problems.append(f"blob {digest}: {wrong}")
            if drop_corrupt:
                storage.blobs.delete(digest)
                report.removed += 1
    with storage.database.read() as connection:
        pulled = set(connection.execute(select(upstream_blobs.c.digest)).scalars())
    report.unused += [digest for digest in stored if digest not in known and digest not in pulled]


def _check_versions(connection: Connection, report: Report) -> None:
    query = (
        select(
            versions,
            adapters.c.name,
            adapters.c.key,
            adapters.c.task,
            adapters.c.subtask,
            adapters.c.default_version,
            organisations.c.name.label("ns"),
        )
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .order_by(versions.c.id)
    )
    last, rows = 0, True
    while rows:
        batch = connection.execute(query.where(versions.c.id > last).limit(500)).all()
        rows = bool(batch)
        for row in batch:
            last = row.id
            report.versions += 1
            name = f"@{row.ns}/{row.name}:{row.version}"
            if row.key != fold(row.name):
                report.problems.append(f"{name}: the name is filed under {row.key!r}")
            if row.state != "deleted":
                report.problems += [f"{name}: {problem}" for problem in _version_problems(connection, row)]


def _version_problems(connection: Connection, row: Row[Any]) -> list[str]:
    try:
        entry = entry_of(row.line)
    except (AdapterHubError, ValueError) as error:
        return [f"its index line cannot be read: {error}"]
    problems: list[str] = []
    if (row.bucket, row.model_bucket) != (
        bucket_of(entry.model_name, entry.task, entry.subtask),
        model_bucket_of(entry.model_name),
    ):
        problems.append("is filed in the wrong bucket")
    if row.digest is None:
        return problems  # imported without bytes: the line is all there is
    body = connection.execute(select(manifests.c.body).where(manifests.c.digest == row.digest)).scalar_one_or_none()
    if body is None:
        return [*problems, f"its manifest {row.digest} is missing"]
    if f"sha256:{hashlib.sha256(bytes(body)).hexdigest()}" != row.digest:
        return [*problems, f"its manifest does not hash to {row.digest}"]
    try:
        manifest = Manifest.from_bytes(bytes(body))
    except AdapterHubError as error:
        return [*problems, f"its manifest is refused: {error.message}"]
    expected = dataclasses.replace(
        entry_for(manifest, row.digest),
        namespace=row.ns,
        name=row.name,
        task=row.task,
        subtask=row.subtask,
        default_version=row.default_version,
        yanked=row.yanked,
        yanked_reason=row.yanked_reason or None,
    )
    if json.loads(expected.to_json_line()) != json.loads(row.line):
        problems.append("its index line is not that of its manifest")
    files = connection.execute(
        select(version_files.c.path, version_files.c.digest, version_files.c.size).where(
            version_files.c.version_id == row.id
        )
    )
    listed = {(file.path, file.digest, int(file.size)) for file in files}
    if listed != {(file.path, file.digest, file.size) for file in manifest.files}:
        problems.append("its files are not those of its manifest")
    missing = connection.execute(
        select(version_files.c.digest)
        .outerjoin(blobs, blobs.c.digest == version_files.c.digest)
        .where(version_files.c.version_id == row.id, blobs.c.digest.is_(None))
    )
    problems += [f"uses {digest}, of which there is no record" for digest in missing.scalars()]
    return problems


def _check_organisations(connection: Connection, report: Report) -> None:
    sizes = (
        select(adapters.c.organisation_id, func.sum(versions.c.size).label("size"))
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(versions.c.state != "deleted", versions.c.digest.is_not(None))
        .group_by(adapters.c.organisation_id)
        .subquery()
    )
    for row in connection.execute(
        select(
            organisations.c.name, organisations.c.used_bytes, func.coalesce(sizes.c.size, 0).label("size")
        ).outerjoin(sizes, sizes.c.organisation_id == organisations.c.id)
    ):
        if int(row.used_bytes) != int(row.size):
            report.problems.append(
                f"organisation {row.name}: {row.used_bytes} bytes are noted, its versions have {row.size}"
            )
