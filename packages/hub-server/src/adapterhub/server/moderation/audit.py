"""The audit log: append-only rows, each with the hash of the one before, so that a change anywhere shows at the end.

hash = sha256(RFC 8785 of {serial, at, actor, action, subject, details, previous})
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, false, insert, or_, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.tables import audit, now
from adapterhub.spec.canonical import canonical_json

__all__ = ["GENESIS", "check_chain", "read_audit", "record"]

GENESIS = "0" * 64


def record(
    connection: Connection,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, Any] | None = None,
    *,
    organisation_id: int | None = None,
    private: bool = False,
    serial: int | None = None,
) -> int:
    """Append one row; returns its serial.

    Args:
        actor: who did it.
        action: what, as `noun.verb`.
        subject: to what.
        details: more, JSON types.
        organisation_id: whose it is.
        private: show it only to that organisation and to operators.
        serial: a number already taken in this transaction with `next_serial`.
    """
    number = next_serial(connection) if serial is None else serial
    previous = (
        connection.execute(select(audit.c.hash).order_by(audit.c.serial.desc()).limit(1)).scalar_one_or_none()
        or GENESIS
    )
    row = {
        "serial": number,
        "at": now(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "details": dict(details or {}),
        "previous": previous,
    }
    connection.execute(
        insert(audit).values(
            **{**row, "details": canonical_json(row["details"])},
            organisation_id=organisation_id,
            private=private,
            hash=_hash(row),
        )
    )
    return number


def read_audit(connection: Connection, viewer: Viewer, since: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """Rows after serial `since`, oldest first, as far as the viewer may see them. Of hidden rows only what chains remains."""
    rows = connection.execute(select(audit).where(audit.c.serial > since).order_by(audit.c.serial).limit(limit))
    return [_shown(row, viewer) for row in rows]


def check_chain(connection: Connection) -> list[str]:
    """Everything that is wrong with the log; empty when it is whole."""
    problems: list[str] = []
    previous, last = GENESIS, 0
    for row in connection.execution_options(yield_per=1000).execute(select(audit).order_by(audit.c.serial)):
        if row.previous != previous:
            problems.append(f"audit row {row.serial}: does not follow row {last}")
        if _hash(_content(row)) != row.hash:
            problems.append(f"audit row {row.serial}: was changed after it was written")
        previous, last = row.hash, row.serial
    return problems


def visible_audit(viewer: Viewer) -> Any:
    """The SQL condition for rows the viewer may see in full."""
    if viewer.is_operator:
        return audit.c.serial > 0
    public = audit.c.private == false()
    if viewer.organisation_id is None:
        return public
    return or_(public, and_(audit.c.private, audit.c.organisation_id == viewer.organisation_id))


def _shown(row: Row[Any], viewer: Viewer) -> dict[str, Any]:
    hidden = (
        row.private and not viewer.is_operator and not (viewer.scopes and row.organisation_id == viewer.organisation_id)
    )
    if hidden:
        return {"serial": row.serial, "hidden": True, "previous": row.previous, "hash": row.hash}
    return {**_content(row), "hash": row.hash}


def _content(row: Row[Any]) -> dict[str, Any]:
    return {
        "serial": int(row.serial),
        "at": row.at,
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "details": json.loads(row.details),
        "previous": row.previous,
    }


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
