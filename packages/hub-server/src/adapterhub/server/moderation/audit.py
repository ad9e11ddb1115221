"""The audit log: append-only rows, each with the hash of the one before, so that a change anywhere shows at the end.

    hash = sha256(RFC 8785 of {serial, at, actor, action, subject, details, previous})

The hash of the last row stands in the table `hub` too, so that rows missing at the end show as well. Outsiders get the hashes
of hidden rows: those have random `salt` in their details, or a name could be confirmed by trying times against its hash.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.database import hub_text, next_serial
from adapterhub.server.storage.tables import audit, hub, now, organisations
from adapterhub.spec.canonical import canonical_json

__all__ = ["GENESIS", "check_chain", "read_audit", "record"]

GENESIS = "0" * 64
_LAST = "audit"  # the row of `hub` that notes serial and hash of the last row here


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
    previous = hub_text(connection, _LAST) or _last_hash(connection)
    details = dict(details or {})
    if private:
        details["salt"] = secrets.token_hex(16)
    row = {
        "serial": number,
        "at": now(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "details": details,
        "previous": previous,
    }
    values = {**row, "details": canonical_json(details), "hash": _hash(row)}
    connection.execute(insert(audit).values(**values, organisation_id=organisation_id, private=private))
    last = {"number": number, "text": values["hash"]}
    if not connection.execute(update(hub).where(hub.c.key == _LAST).values(**last)).rowcount:
        connection.execute(insert(hub).values(key=_LAST, **last))
    return number


def read_audit(connection: Connection, viewer: Viewer, since: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """Rows after serial `since`, oldest first, as far as the viewer may see them. Of hidden rows only what chains remains.

    Hidden is what was private when it happened, and everything about an organisation that is private now.
    """
    rows = connection.execute(
        select(audit, organisations.c.private.label("closed"))
        .outerjoin(organisations, organisations.c.id == audit.c.organisation_id)
        .where(audit.c.serial > since)
        .order_by(audit.c.serial)
        .limit(limit)
    )
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
    noted = connection.execute(select(hub.c.number, hub.c.text).where(hub.c.key == _LAST)).first()
    if noted is not None and noted.text != previous:
        problems.append(f"audit row {noted.number}: is missing at the end, or was changed")
    return problems


def _last_hash(connection: Connection) -> str:
    """Of a log whose end was not noted yet."""
    found = connection.execute(select(audit.c.hash).order_by(audit.c.serial.desc()).limit(1)).scalar_one_or_none()
    return found or GENESIS


def _shown(row: Row[Any], viewer: Viewer) -> dict[str, Any]:
    own = viewer.sees_private and row.organisation_id is not None and row.organisation_id == viewer.organisation_id
    if (row.private or row.closed) and not (viewer.is_operator or own):
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
