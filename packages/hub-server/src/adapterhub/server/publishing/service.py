"""Publishing: a manifest whose blobs are all here becomes a version, in one transaction, once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, exists, false, func, insert, literal, or_, select, update

from adapterhub.server.accounts.organisations import find_organisation
from adapterhub.server.accounts.viewer import Viewer, forbidden
from adapterhub.server.moderation.audit import record
from adapterhub.server.moderation.events import announce
from adapterhub.server.publishing.checks import content_problems, file_problems, readme_of
from adapterhub.server.publishing.dependencies import dependency_problems
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.records import add_version, find_adapter, upsert_adapter
from adapterhub.server.storage.tables import (
    adapters,
    audit,
    blob_owners,
    blobs,
    manifests,
    now,
    organisations,
    version_files,
    versions,
)
from adapterhub.spec.canonical import digest_of
from adapterhub.spec.errors import (
    InvalidManifestError,
    PublishError,
    QuotaExceededError,
    ValidationFailedError,
    VersionExistsError,
)
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.manifest import Manifest, index_entry
from adapterhub.spec.reference import fold
from adapterhub.spec.validation.problem import Problem

__all__ = ["Published", "entry_for", "publish"]


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """What came of a publish request.

    Attributes:
        created: False when exactly this was published before.
        state: `published`, or `pending` while reviewers of the organisation have not decided.
    """

    digest: str
    full_id: str
    namespace: str
    name: str
    version: str
    created: bool
    state: str

    def to_json(self, base: str) -> dict[str, Any]:
        """The answer of `POST /v1/publish`; `base` is the hub's address."""
        return {
            "digest": self.digest,
            "reference": f"@{self.namespace}/{self.name}:{self.version}",
            "full_id": self.full_id,
            "namespace": self.namespace,
            "name": self.name,
            "version": self.version,
            "state": self.state,
            "url": f"{base}/v1/adapters/@{self.namespace}/{self.name}/versions/{self.version}",
            "page": f"{base}/@{self.namespace}/{self.name}",
        }


def publish(storage: Storage, settings: Settings, viewer: Viewer, document: Any) -> Published:
    """Publish the manifest `document` (a parsed JSON value).

    Raises:
        ValidationFailedError: the manifest, its files, or both together are not in order; all problems are listed.
        AuthenticationError: the token may not publish there.
        VersionExistsError: the version exists with other content, or existed.
        PublishError: the adapter exists for another model, task or type.
        QuotaExceededError: the organisation's limits.
    """
    try:
        manifest = Manifest.from_json(document)
    except InvalidManifestError as error:
        raise _refused(error.details.get("problems") or [{"pointer": "", "message": error.message}]) from None
    body = manifest.canonical_bytes()
    digest = digest_of(body)
    with storage.database.read() as connection:
        organisation = find_organisation(connection, manifest.namespace, viewer)
        viewer.require("publish", organisation.id, fold(manifest.name))
        if organisation.trusted_only and viewer.origin != "oidc" and not viewer.is_operator:
            raise forbidden(f"{organisation.name} accepts publishes by trusted publishers only.")
        before = _existing(connection, organisation, manifest, digest)
        if before is not None:
            return before
        _check_quota(connection, settings, organisation, manifest)
        problems: list[Any] = [
            *file_problems(manifest.files),
            *_missing_blobs(connection, manifest, organisation.id, viewer),
        ]
        problems += dependency_problems(connection, manifest, organisation, viewer)
    if not problems:
        problems += content_problems(storage.blobs, manifest)
    if problems:
        raise _refused([problem.to_json() for problem in problems])
    card = readme_of(storage.blobs, manifest)
    with storage.database.change() as connection:  # what was looked at above may have changed: look again
        organisation = find_organisation(connection, manifest.namespace, viewer)
        before = _existing(connection, organisation, manifest, digest)
        if before is not None:
            return before
        _check_quota(connection, settings, organisation, manifest)
        if gone := _missing_blobs(connection, manifest, organisation.id, viewer):
            raise _refused([problem.to_json() for problem in gone])
        return _commit(connection, organisation, manifest, digest, body, card, next_serial(connection), viewer)


def entry_for(manifest: Manifest, digest: str) -> IndexEntry:
    """The index entry of a manifest; an adapter without task and subtask has them empty."""
    entry = index_entry(manifest, digest=digest)
    return dataclasses.replace(entry, task=entry.task or "", subtask=entry.subtask or "", files=())


def _commit(
    connection: Connection,
    organisation: Row[Any],
    manifest: Manifest,
    digest: str,
    body: bytes,
    card: str,
    serial: int,
    viewer: Viewer,
) -> Published:
    entry = entry_for(manifest, digest)
    existing = find_adapter(connection, organisation.id, manifest.name)
    if existing is not None:
        _check_same(existing, entry, organisation)
    texts = {"description": manifest.description, "card": card, "citation": manifest.citation}
    adapter_id, entry = upsert_adapter(connection, organisation, entry, serial, **texts)
    if existing is not None and existing.edited_at is None:
        newer = {key: text for key, text in texts.items() if text}
        if newer:
            connection.execute(update(adapters).where(adapters.c.id == adapter_id).values(**newer))
    state = "pending" if organisation.review and not viewer.is_operator else "published"
    version_id = add_version(connection, adapter_id, entry, serial, state=state, token_id=viewer.token_id)
    insert_missing(connection, manifests, {"digest": digest, "body": body})
    connection.execute(
        _INSERT_FILES,
        [
            {
                "version_id": version_id,
                "path": file.path,
                "digest": file.digest,
                "size": file.size,
                "media_type": file.media_type,
            }
            for file in manifest.files
        ],
    )
    connection.execute(_ADD_BYTES, {"organisation": organisation.id, "more": manifest.size})
    name = f"@{organisation.name}/{entry.name}:{manifest.version}"
    action = "version.publish" if state == "published" else "version.submit"
    record(
        connection,
        viewer.name,
        action,
        name,
        {"digest": digest},
        organisation_id=organisation.id,
        private=organisation.private or state == "pending",
        serial=serial,
    )
    announce(connection, organisation.id, action, name, {"digest": digest, "full_id": entry.id})
    project(connection, [adapter_id])
    return Published(digest, entry.id, entry.namespace, entry.name, manifest.version, True, state)


def _existing(connection: Connection, organisation: Row[Any], manifest: Manifest, digest: str) -> Published | None:
    adapter = find_adapter(connection, organisation.id, manifest.name)
    if adapter is None:
        return None
    row = connection.execute(_VERSION, {"adapter": adapter.id, "version": manifest.version}).first()
    if row is None:
        return None
    name = f"@{organisation.name}/{adapter.name}:{manifest.version}"
    if row.state in ("deleted", "refused", "quarantined"):
        raise VersionExistsError(
            f"{name} was {row.state}; the name of a version is never used twice.", hint="Publish another version."
        )
    if row.digest != digest:
        raise VersionExistsError(
            f"{name} exists with other content; versions never change.",
            hint="Publish another version.",
            details={"digest": row.digest},
        )
    full_id = (
        f"{adapter.task}/{adapter.subtask}@{organisation.name}"
        if adapter.task
        else f"@{organisation.name}/{adapter.name}"
    )
    return Published(digest, full_id, organisation.name, adapter.name, manifest.version, False, row.state)


def _check_same(adapter: Row[Any], entry: IndexEntry, organisation: Row[Any]) -> None:
    """All versions of an adapter are for the same model, task and type: what a reference finds must not change by a version."""
    name = f"@{organisation.name}/{adapter.name}"
    for what, old, new in (
        ("base model", adapter.model_name, entry.model_name),
        ("task", adapter.task_key, fold(entry.task)),
        ("subtask", adapter.subtask_key, fold(entry.subtask)),
        ("type", adapter.type, entry.type),
    ):
        if old != new:
            raise PublishError(
                f"{name} exists with the {what} {old!r}, this version has {new!r}.",
                hint="Publish it under another name.",
            )


def _check_quota(connection: Connection, settings: Settings, organisation: Row[Any], manifest: Manifest) -> None:
    limit = organisation.max_bytes if organisation.max_bytes is not None else settings.organisation_bytes
    if organisation.used_bytes + manifest.size > limit:
        error = QuotaExceededError(
            f"{organisation.name} may store {limit} bytes and has {organisation.used_bytes}; this version has {manifest.size}.",
            hint="Delete versions younger than 72 hours, or ask the operator for more.",
            details={"limit": limit, "used": organisation.used_bytes},
        )
        error.http_status = 413  # type: ignore[attr-defined]
        raise error
    a_day = organisation.max_versions_per_day
    a_day = settings.organisation_versions_per_day if a_day is None else a_day
    today = {"organisation": organisation.id, "since": now(hours=-24)}
    if connection.execute(_PUBLISHED_SINCE, today).scalar_one() >= a_day:
        raise QuotaExceededError(
            f"{organisation.name} may publish {a_day} versions in 24 hours.",
            hint="Try again tomorrow.",
            details={"limit": a_day},
        )


def _missing_blobs(connection: Connection, manifest: Manifest, organisation_id: int, viewer: Viewer) -> list[Problem]:
    digests = {file.digest for file in manifest.files}
    usable: dict[str, int] = {}
    usable_by = {} if viewer.is_operator else {"organisation": organisation_id}
    for row in connection.execute(
        _ANY_BLOBS if viewer.is_operator else _BLOBS, {"digests": list(digests), **usable_by}
    ):
        usable[row.digest] = int(row.size)
    problems = []
    for number, file in enumerate(manifest.files):
        size = usable.get(file.digest)
        if size is None:
            problems.append(
                Problem(f"/files/{number}/digest", f"{file.path}: these bytes were not uploaded", "Upload them first.")
            )
        elif size != file.size:
            problems.append(
                Problem(f"/files/{number}/size", f"{file.path}: is {file.size}, the bytes uploaded are {size}")
            )
    return problems


def is_public() -> Any:
    """The SQL condition for blobs that a public version uses."""
    return exists(
        select(literal(1))
        .select_from(version_files)
        .join(versions, versions.c.id == version_files.c.version_id)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(
            and_(
                version_files.c.digest == blobs.c.digest,
                versions.c.state == "published",
                adapters.c.private == false(),
            )
        )
    )


# Statements of the way of a publish, built once.
_VERSION = select(versions).where(
    versions.c.adapter_id == bindparam("adapter"), versions.c.version == bindparam("version")
)
#: the log has what was deleted meanwhile, too, and is read by time; versions would have to be read one by one
_PUBLISHED_SINCE = select(func.count()).where(
    audit.c.organisation_id == bindparam("organisation"),
    audit.c.at > bindparam("since"),
    audit.c.action.in_(("version.publish", "version.submit")),
)
_INSERT_FILES = insert(version_files)
_ADD_BYTES = (
    update(organisations)
    .where(organisations.c.id == bindparam("organisation"))
    .values(used_bytes=organisations.c.used_bytes + bindparam("more"))
)
_ANY_BLOBS = select(blobs.c.digest, blobs.c.size).where(blobs.c.digest.in_(bindparam("digests", expanding=True)))
_BLOBS = _ANY_BLOBS.where(
    or_(
        exists(
            select(literal(1)).where(
                blob_owners.c.digest == blobs.c.digest, blob_owners.c.organisation_id == bindparam("organisation")
            )
        ),
        is_public(),
    )
)


def _refused(problems: list[Mapping[str, Any]] | list[dict[str, Any]]) -> ValidationFailedError:
    listed = [
        {"pointer": "", "hint": "", "severity": "error", **json.loads(json.dumps(problem))} for problem in problems
    ]
    first = listed[0]
    more = f" (and {len(listed) - 1} more)" if len(listed) > 1 else ""
    where = f"{first.get('file', '')}{first['pointer']}" or "manifest"
    return ValidationFailedError(f"The submission is refused: {where}: {first['message']}{more}.", problems=listed)
