"""What may happen to a version after publishing: yank, default, deletion within 72 hours, review, quarantine, better texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, false, select, update

from adapterhub.server.accounts.viewer import Viewer, forbidden
from adapterhub.server.moderation.audit import record
from adapterhub.server.moderation.events import announce
from adapterhub.server.resolving.history import adapter_row
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.records import entry_of, refresh_lines, touch
from adapterhub.server.storage.tables import (
    adapters,
    blob_owners,
    manifests,
    now,
    organisations,
    pair_defaults,
    tokens,
    version_files,
    versions,
)
from adapterhub.spec.errors import InvalidConfigError, PolicyError, VersionNotFoundError
from adapterhub.spec.index import model_bucket_of

__all__ = [
    "decide",
    "delete_version",
    "edit_texts",
    "quarantine",
    "review_queue",
    "set_default_version",
    "set_pair_default",
    "yank",
]

_MAX_TEXT = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """An adapter, and maybe one of its versions, that someone wants to change."""

    adapter: Row[Any]
    version: Row[Any] | None

    @property
    def name(self) -> str:
        base = f"@{self.adapter.namespace}/{self.adapter.name}"
        return f"{base}:{self.version.version}" if self.version is not None else base


def yank(
    storage: Storage, viewer: Viewer, namespace: str, name: str, version: str, *, undo: bool, reason: str = ""
) -> dict[str, Any]:
    """Withdraw a version from resolution, or bring it back. Its bytes stay for those who pinned it."""
    with storage.database.change() as connection:
        target = _target(connection, viewer, "yank", namespace, name, version)
        row = _published(target)
        reason = _text(reason, 500)
        if row.yanked == (not undo) and (undo or row.yanked_reason == reason):
            return _answer(target, {"yanked": row.yanked, "yanked_reason": row.yanked_reason or None})
        serial = next_serial(connection)
        values = {"yanked": not undo, "yanked_reason": "" if undo else reason}
        connection.execute(update(versions).where(versions.c.id == row.id).values(**values))
        refresh_lines(connection, target.adapter.id, serial)
        _note(connection, viewer, target, "version.unyank" if undo else "version.yank", {"reason": reason}, serial)
        return _answer(target, {"yanked": not undo, "yanked_reason": None if undo else reason or None})


def set_default_version(
    storage: Storage, viewer: Viewer, namespace: str, name: str, version: str | None
) -> dict[str, Any]:
    """Choose the version a reference without one means; None: the newest that is not yanked."""
    with storage.database.change() as connection:
        target = _target(connection, viewer, "publish", namespace, name, version)
        if version is not None and _published(target).yanked:
            raise PolicyError(f"{target.name} is yanked and cannot be the default.", hint="Unyank it first.")
        serial = next_serial(connection)
        connection.execute(update(adapters).where(adapters.c.id == target.adapter.id).values(default_version=version))
        refresh_lines(connection, target.adapter.id, serial)
        _note(connection, viewer, target, "adapter.default", {"version": version}, serial)
        return _answer(target, {"default_version": version})


def set_pair_default(
    storage: Storage, viewer: Viewer, namespace: str, name: str, *, clear: bool = False
) -> dict[str, Any]:
    """Make an adapter the answer for its (model, task, subtask), or take that back.

    An organisation decides among its own adapters; where others publish the same, an operator of the hub does.
    """
    with storage.database.change() as connection:
        target = _target(connection, viewer, "publish", namespace, name, None)
        adapter = target.adapter
        if not (adapter.task and adapter.listed):
            raise PolicyError(f"{target.name} has no published version, or no task it could be the default for.")
        if adapter.private:
            raise PolicyError(f"{target.name} is private and cannot be the default for everybody.")
        pair = (
            (pair_defaults.c.model_name == adapter.model_name)
            & (pair_defaults.c.task_key == adapter.task_key)
            & (pair_defaults.c.subtask_key == adapter.subtask_key)
        )
        others = connection.execute(
            select(adapters.c.id)
            .where(
                adapters.c.model_name == adapter.model_name,
                adapters.c.task_key == adapter.task_key,
                adapters.c.subtask_key == adapter.subtask_key,
                adapters.c.organisation_id != adapter.organisation_id,
                adapters.c.listed,
                adapters.c.private == false(),
            )
            .limit(1)
        ).first()
        if others is not None and not viewer.is_operator:
            raise forbidden(
                f"Other organisations publish {adapter.task}/{adapter.subtask} for {adapter.model_name} too.",
                "Ask an operator of the hub to set the default.",
            )
        serial = next_serial(connection)
        connection.execute(
            delete(pair_defaults).where(pair & (pair_defaults.c.adapter_id == adapter.id) if clear else pair)
        )
        if not clear:
            connection.execute(
                pair_defaults.insert().values(
                    model_name=adapter.model_name,
                    task_key=adapter.task_key,
                    subtask_key=adapter.subtask_key,
                    model_bucket=model_bucket_of(adapter.model_name),
                    adapter_id=adapter.id,
                )
            )
        touch(connection, adapter.id, serial)
        details = {"for": f"{adapter.task}/{adapter.subtask}", "model": adapter.model_name, "cleared": clear}
        _note(connection, viewer, target, "adapter.default", details, serial)
        return _answer(target, details)


def delete_version(
    storage: Storage, settings: Settings, viewer: Viewer, namespace: str, name: str, version: str, reason: str = ""
) -> dict[str, Any]:
    """Take a version away for good. Allowed for 72 hours after publishing (operators: always); its name stays used.

    Raises:
        PolicyError: it is older.
    """
    with storage.database.change() as connection:
        target = _target(connection, viewer, "yank", namespace, name, version)
        row = target.version
        assert row is not None
        if row.state == "deleted":
            return _answer(target, {"state": "deleted"})
        moment = row.published_at or row.created_at
        if not viewer.is_operator and moment < now(hours=-settings.delete_hours):
            raise PolicyError(
                f"{target.name} was published {moment[:10]}, more than {settings.delete_hours:g} hours ago.",
                hint="Others may rely on it. Yank it instead.",
            )
        serial = next_serial(connection)
        reason = _text(reason, 500)
        values = {"state": "deleted", "reason": reason, "yanked": True, "serial": serial}
        connection.execute(update(versions).where(versions.c.id == row.id).values(**values))
        freed = list(
            connection.execute(select(version_files.c.digest).where(version_files.c.version_id == row.id)).scalars()
        )
        connection.execute(delete(version_files).where(version_files.c.version_id == row.id))
        if row.digest and not _uses_manifest(connection, row.digest, row.id):
            connection.execute(delete(manifests).where(manifests.c.digest == row.digest))
        for digest in freed:  # what nobody uses any more is removed by the next `verify --prune`
            if not _uses_blob(connection, digest, target.adapter.organisation_id):
                connection.execute(
                    delete(blob_owners).where(
                        blob_owners.c.digest == digest,
                        blob_owners.c.organisation_id == target.adapter.organisation_id,
                    )
                )
        connection.execute(
            update(organisations)
            .where(organisations.c.id == target.adapter.organisation_id)
            .values(used_bytes=organisations.c.used_bytes - (row.size if row.digest else 0))
        )
        if target.adapter.default_version == version:
            connection.execute(update(adapters).where(adapters.c.id == target.adapter.id).values(default_version=None))
        refresh_lines(connection, target.adapter.id, serial)
        _drop_dangling_default(connection, target.adapter.id)
        _note(connection, viewer, target, "version.delete", {"reason": reason, "digest": row.digest}, serial)
        return _answer(target, {"state": "deleted"})


def quarantine(
    storage: Storage, viewer: Viewer, namespace: str, name: str, version: str, *, undo: bool, reason: str = ""
) -> dict[str, Any]:
    """Operators only: hide a version and its bytes from everybody while it is looked into, or release it."""
    if not viewer.is_operator:
        viewer.require("admin")
        raise forbidden("Only operators of the hub put versions into quarantine.")
    with storage.database.change() as connection:
        target = _target(connection, viewer, "admin", namespace, name, version)
        row = target.version
        assert row is not None
        before, after = ("quarantined", "published") if undo else ("published", "quarantined")
        if row.state != before:
            raise PolicyError(f"{target.name} is {row.state}, not {before}.")
        serial = next_serial(connection)
        reason = _text(reason, 500)
        connection.execute(
            update(versions)
            .where(versions.c.id == row.id)
            .values(state=after, reason="" if undo else reason, serial=serial)
        )
        refresh_lines(connection, target.adapter.id, serial)
        _drop_dangling_default(connection, target.adapter.id)
        _note(
            connection, viewer, target, "version.release" if undo else "version.quarantine", {"reason": reason}, serial
        )
        return _answer(target, {"state": after})


def review_queue(connection: Connection, viewer: Viewer, organisation_id: int) -> list[dict[str, Any]]:
    """Submissions of an organisation that wait for a decision, oldest first."""
    viewer.require("review", organisation_id)
    rows = connection.execute(
        select(
            versions,
            adapters.c.name,
            adapters.c.model_name,
            adapters.c.task,
            adapters.c.subtask,
            organisations.c.name.label("ns"),
        )
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(adapters.c.organisation_id == organisation_id, versions.c.state == "pending")
        .order_by(versions.c.serial)
    )
    return [
        {
            "reference": f"@{row.ns}/{row.name}:{row.version}",
            "namespace": row.ns,
            "name": row.name,
            "version": row.version,
            "digest": row.digest,
            "model_name": row.model_name,
            "task": row.task,
            "subtask": row.subtask,
            "size": row.size,
            "submitted_at": row.created_at,
        }
        for row in rows
    ]


def decide(
    storage: Storage, viewer: Viewer, namespace: str, name: str, version: str, *, approve: bool, reason: str = ""
) -> dict[str, Any]:
    """Approve a submission, which publishes it, or refuse it with a reason.

    Raises:
        PolicyError: it does not wait; a refusal without a reason; one's own submission.
    """
    reason = _text(reason, 2000)
    if not approve and not reason:
        raise InvalidConfigError("A refusal needs a reason.", hint='Send {"reason": "…"}.')
    with storage.database.change() as connection:
        target = _target(connection, viewer, "review", namespace, name, version)
        row = target.version
        assert row is not None
        if row.state != "pending":
            raise PolicyError(f"{target.name} is {row.state}; there is nothing to decide.")
        if row.token_id is not None and _same_hand(connection, row.token_id, viewer):
            raise PolicyError(
                f"{target.name} was submitted with this token, or by its holder.", hint="Somebody else has to decide."
            )
        serial = next_serial(connection)
        values: dict[str, Any] = {
            "state": "published" if approve else "refused",
            "reason": "" if approve else reason,
            "serial": serial,
        }
        if approve:
            values["published_at"] = now()
        connection.execute(update(versions).where(versions.c.id == row.id).values(**values))
        refresh_lines(connection, target.adapter.id, serial)
        if approve:
            touch(connection, target.adapter.id, serial, entry_of(row.line))
        _note(
            connection, viewer, target, "version.approve" if approve else "version.refuse", {"reason": reason}, serial
        )
        return _answer(target, {"state": values["state"], "reason": values["reason"]})


def _same_hand(connection: Connection, submitter: int, viewer: Viewer) -> bool:
    """Whether two tokens are one person's: the same, of the same account, or one approved the other's making."""
    rows = connection.execute(
        select(tokens.c.id, tokens.c.account_id, tokens.c.approved_by).where(
            tokens.c.id.in_((submitter, viewer.token_id))
        )
    )
    known = {row.id: row for row in rows}
    one, other = known.get(submitter), known.get(viewer.token_id)
    if one is None or other is None:
        return submitter == viewer.token_id
    same_account = one.account_id is not None and one.account_id == other.account_id
    roots = {one.approved_by or one.id, other.approved_by or other.id}
    return one.id == other.id or same_account or len(roots) == 1


def edit_texts(
    storage: Storage, viewer: Viewer, namespace: str, name: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Change description, card or citation. The manifests of all versions stay what they are."""
    allowed = ("description", "card", "citation")
    if unknown := sorted(set(changes) - set(allowed)):
        raise InvalidConfigError(
            f"{unknown[0]!r} cannot be edited.",
            hint=f"Can be: {', '.join(allowed)}; all else is in the manifest, for good.",
        )
    values = {key: _text(value, _MAX_TEXT) for key, value in changes.items()}
    with storage.database.change() as connection:
        target = _target(connection, viewer, "publish", namespace, name, None)
        serial = next_serial(connection)
        connection.execute(update(adapters).where(adapters.c.id == target.adapter.id).values(**values, edited_at=now()))
        touch(connection, target.adapter.id, serial)
        _note(connection, viewer, target, "adapter.edit", {"fields": sorted(values)}, serial)
        return _answer(target, values)


def _target(
    connection: Connection, viewer: Viewer, scope: str, namespace: str, name: str, version: str | None
) -> _Target:
    viewer.require(scope)
    adapter = adapter_row(connection, namespace, name, viewer, scope)
    viewer.require(scope, adapter.organisation_id, adapter.key)
    if version is None:
        return _Target(adapter, None)
    found = connection.execute(
        select(versions).where(versions.c.adapter_id == adapter.id, versions.c.version == version)
    ).first()
    if found is None:
        known = connection.execute(select(versions.c.version).where(versions.c.adapter_id == adapter.id)).scalars()
        raise VersionNotFoundError(
            f"@{adapter.namespace}/{adapter.name} has no version {version!r}.", candidates=list(known)
        )
    return _Target(adapter, found)


def _published(target: _Target) -> Row[Any]:
    assert target.version is not None
    if target.version.state != "published":
        raise PolicyError(f"{target.name} is {target.version.state}.")
    return target.version


def _note(
    connection: Connection, viewer: Viewer, target: _Target, action: str, details: Mapping[str, Any], serial: int
) -> None:
    adapter = target.adapter
    hidden = adapter.private or (target.version is not None and target.version.state in ("pending",))
    record(
        connection,
        viewer.name,
        action,
        target.name,
        details,
        organisation_id=adapter.organisation_id,
        private=hidden and action != "version.approve",
        serial=serial,
    )
    announce(connection, adapter.organisation_id, action, target.name, details)
    project(connection, [adapter.id])


def _answer(target: _Target, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"reference": target.name, **more}


def _drop_dangling_default(connection: Connection, adapter_id: int) -> None:
    listed = connection.execute(select(adapters.c.listed).where(adapters.c.id == adapter_id)).scalar_one()
    if not listed:
        connection.execute(delete(pair_defaults).where(pair_defaults.c.adapter_id == adapter_id))


def _uses_manifest(connection: Connection, digest: str, besides: int) -> bool:
    query = select(versions.c.id).where(
        versions.c.digest == digest, versions.c.id != besides, versions.c.state != "deleted"
    )
    return connection.execute(query.limit(1)).first() is not None


def _uses_blob(connection: Connection, digest: str, organisation_id: int) -> bool:
    query = (
        select(version_files.c.digest)
        .join(versions, versions.c.id == version_files.c.version_id)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(version_files.c.digest == digest, adapters.c.organisation_id == organisation_id)
    )
    return connection.execute(query.limit(1)).first() is not None


def _text(value: Any, limit: int) -> str:
    if not isinstance(value, str):
        raise InvalidConfigError(f"Text is expected, not {type(value).__name__}.")
    text = value.strip()
    if len(text) > limit:
        raise InvalidConfigError(f"The text has {len(text)} characters; {limit} are allowed.")
    if any(ord(letter) < 32 and letter not in "\n\t\r" for letter in text) or any(
        0xD800 <= ord(letter) <= 0xDFFF for letter in text
    ):
        raise InvalidConfigError("The text holds control characters.")
    return text
