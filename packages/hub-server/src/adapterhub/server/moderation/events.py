"""Things that happened, put into the outbox of webhooks in the same transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, true

from adapterhub.server.storage.tables import now, webhook_deliveries, webhooks

__all__ = ["EVENTS", "announce"]

#: what webhooks can listen to
EVENTS = (
    "version.publish",
    "version.submit",
    "version.approve",
    "version.refuse",
    "version.yank",
    "version.unyank",
    "version.delete",
    "version.quarantine",
    "version.report",
    "adapter.default",
    "adapter.edit",
)


def announce(
    connection: Connection, organisation_id: int, event: str, subject: str, details: Mapping[str, Any]
) -> None:
    """Queue `event` for every active webhook of the organisation that listens to it."""
    moment = now()
    body = json.dumps({"event": event, "subject": subject, "at": moment, "details": dict(details)}, sort_keys=True)
    found = connection.execute(
        select(webhooks.c.id, webhooks.c.events).where(
            webhooks.c.organisation_id == organisation_id, webhooks.c.active == true()
        )
    )
    for row in found.all():
        if not row.events or event in row.events.split():
            connection.execute(
                insert(webhook_deliveries).values(
                    webhook_id=row.id, event=event, body=body, due_at=moment, created_at=moment
                )
            )
