"""Reports by readers: something is wrong with a version. The organisation and the operators see them, nobody else does."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from adapterhub.server.accounts.viewer import Viewer, forbidden
from adapterhub.server.moderation.audit import record
from adapterhub.server.moderation.events import announce
from adapterhub.server.moderation.tables import reports
from adapterhub.server.resolving.history import adapter_row
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import inserted_id
from adapterhub.server.storage.tables import adapters, now, organisations, versions
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError, QuotaExceededError, VersionNotFoundError

__all__ = ["KINDS", "close", "find_version", "list_reports", "report"]

#: what can be wrong, and how that is asked
KINDS = {
    "broken": "It does not work, or not as described",
    "unsafe": "It misbehaves on purpose, or does harm",
    "rights": "It breaks a licence or somebody's rights",
    "private": "It holds private data",
    "spam": "It is spam, or pretends to be something else",
    "other": "Something else",
}
_MOST_OPEN = 100


def find_version(connection: Connection, viewer: Viewer, namespace: str, name: str, version: str) -> Any:
    """The row of a published version the viewer may see, with `namespace`, `name` and `private` beside it."""
    adapter = adapter_row(connection, namespace, name, viewer)
    found: Any = connection.execute(
        select(
            versions.c.id,
            versions.c.version,
            adapters.c.name,
            adapters.c.organisation_id,
            organisations.c.name.label("namespace"),
        )
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(versions.c.adapter_id == adapter.id, versions.c.version == version, versions.c.state == "published")
    ).first()
    if found is None:
        raise VersionNotFoundError(f"@{adapter.namespace}/{adapter.name} has no version {version!r}.")
    return found


def report(
    storage: Storage, viewer: Viewer, namespace: str, name: str, version: str, kind: str, text: str
) -> dict[str, Any]:
    """Keep a report, and tell the organisation's webhooks.

    Raises:
        InvalidConfigError: no such kind, or no text.
        QuotaExceededError: this version has more open reports than anybody reads.
    """
    text = "".join(letter for letter in text if letter in "\n\t" or letter.isprintable()).strip()
    if kind not in KINDS or not text:
        raise InvalidConfigError("A report says what is wrong, in words.", hint=f"Kinds: {', '.join(KINDS)}.")
    with storage.database.write() as connection:
        found = find_version(connection, viewer, namespace, name, version)
        waiting = select(func.count()).where(reports.c.version_id == found.id, reports.c.closed_at.is_(None))
        if connection.execute(waiting).scalar_one() >= _MOST_OPEN:
            raise QuotaExceededError("This version was reported many times already.", hint="Somebody will look.")
        moment = now()
        made = connection.execute(
            insert(reports).values(
                version_id=found.id,
                kind=kind,
                text=text[:2000],
                reporter=viewer.name if viewer.token_id is not None else "",
                created_at=moment,
            )
        )
        subject = f"@{found.namespace}/{found.name}:{found.version}"
        announce(connection, found.organisation_id, "version.report", subject, {"kind": kind, "id": inserted_id(made)})
        return {"id": inserted_id(made), "subject": subject, "kind": kind, "created_at": moment}


def list_reports(connection: Connection, viewer: Viewer, *, everything: bool = False) -> list[dict[str, Any]]:
    """Open reports, oldest first: all of them for operators, their own for an organisation's administrators and reviewers.

    Args:
        everything: closed ones too.
    """
    viewer.require("review")
    query = (
        select(reports, versions.c.version, adapters.c.name, organisations.c.name.label("namespace"))
        .join(versions, versions.c.id == reports.c.version_id)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .order_by(reports.c.id)
        .limit(1000)
    )
    if viewer.organisation_id is not None:
        query = query.where(adapters.c.organisation_id == viewer.organisation_id)
    if not everything:
        query = query.where(reports.c.closed_at.is_(None))
    return [
        {
            "id": row.id,
            "subject": f"@{row.namespace}/{row.name}:{row.version}",
            "kind": row.kind,
            "text": row.text,
            "reporter": row.reporter or None,
            "created_at": row.created_at,
            "closed_at": row.closed_at,
            "closed_by": row.closed_by or None,
            "outcome": row.outcome or None,
        }
        for row in connection.execute(query)
    ]


def close(storage: Storage, viewer: Viewer, report_id: int, outcome: str) -> dict[str, Any]:
    """Operators only: a report was looked into."""
    viewer.require("admin")
    if not viewer.is_operator:
        raise forbidden("Only operators of the hub close reports.")
    with storage.database.write() as connection:
        changed = connection.execute(
            update(reports)
            .where(reports.c.id == report_id, reports.c.closed_at.is_(None))
            .values(closed_at=now(), closed_by=viewer.name, outcome=outcome[:500])
        )
        if not changed.rowcount:
            raise AdapterNotFoundError(f"There is no open report {report_id}.")
        record(connection, viewer.name, "report.close", f"report {report_id}", {"outcome": outcome[:500]}, private=True)
    return {"id": report_id, "outcome": outcome[:500]}
