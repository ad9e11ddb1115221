"""Webhooks: events posted to the addresses an organisation names, signed, with retries, never into private networks.

    X-AdapterHub-Signature: t=<seconds>,v1=<hex of HMAC-SHA256(secret, "<seconds>.<body>")>

Where they may go: see `adapterhub.server.outbound`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import smtplib
import time
from collections.abc import Iterable
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import Connection, Row, delete, insert, or_, select, update
from starlette.concurrency import run_in_threadpool

from adapterhub.server.moderation.events import EVENTS
from adapterhub.server.moderation.mail import CONFIRM, check_mail_address, is_mail, send
from adapterhub.server.outbound import check_address, check_url, pinned
from adapterhub.server.settings import Settings
from adapterhub.server.storage import Storage
from adapterhub.server.storage.database import inserted_id
from adapterhub.server.storage.tables import now, organisations, webhook_deliveries, webhooks
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError

__all__ = [
    "confirm",
    "create_webhook",
    "deliver_webhooks",
    "list_webhooks",
    "remove_webhook",
    "sign",
    "sweep_deliveries",
]

log = logging.getLogger("adapterhub.server.webhooks")

_ATTEMPTS = 8
_TIMEOUT = 5.0
_MAX_ANSWER = 1024 * 1024
_POLL_SECONDS = 1.0
_MAX_PER_ORGANISATION = 20
_KEPT_HOURS = 30 * 24.0


def sign(secret: str, moment: int, body: bytes) -> str:
    """The signature header for a body sent at `moment` (seconds since the epoch)."""
    mac = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    return f"t={moment},v1={mac.hexdigest()}"


def create_webhook(
    connection: Connection, settings: Settings, organisation_id: int, url: str, events: Iterable[str]
) -> dict[str, Any]:
    """Add a webhook. `secret` in the answer is shown this once. A `mailto:` address gets a code to be confirmed with first.

    Raises:
        InvalidConfigError: an address webhooks may not have, an unknown event, too many webhooks.
    """
    wanted = list(dict.fromkeys(events))
    if unknown := [event for event in wanted if event not in EVENTS]:
        raise InvalidConfigError(f"There is no event {unknown[0]!r}.", hint=f"Events: {', '.join(EVENTS)}.")
    mail = is_mail(url)
    if mail:
        check_mail_address(settings, url)
    else:
        check_url(settings, url)
    count = len(connection.execute(select(webhooks.c.id).where(webhooks.c.organisation_id == organisation_id)).all())
    if count >= _MAX_PER_ORGANISATION:
        raise InvalidConfigError(f"There are {count} webhooks already.", hint="Delete one first.")
    secret = secrets.token_urlsafe(9) if mail else f"ahws_{secrets.token_urlsafe(32)}"
    moment = now()
    made = connection.execute(
        insert(webhooks).values(
            organisation_id=organisation_id,
            url=url,
            secret=secret,
            events=" ".join(wanted),
            active=not mail,
            created_at=moment,
        )
    )
    number = inserted_id(made)
    shown = {"id": number, "url": url, "events": wanted, "active": not mail}
    if not mail:
        return {**shown, "secret": secret}
    name = connection.execute(select(organisations.c.name).where(organisations.c.id == organisation_id)).scalar_one()
    details = {"code": secret, "id": number}
    body = json.dumps({"event": CONFIRM, "subject": f"@{name}", "at": moment, "details": details})
    connection.execute(
        insert(webhook_deliveries).values(webhook_id=number, event=CONFIRM, body=body, due_at=moment, created_at=moment)
    )
    return shown


def confirm(connection: Connection, organisation_id: int, webhook_id: int, code: str) -> dict[str, Any]:
    """Begin to send to a mail address, with the code that was sent there. Raises InvalidConfigError for another one."""
    _own(connection, organisation_id, webhook_id)
    row = connection.execute(select(webhooks).where(webhooks.c.id == webhook_id)).one()
    if not is_mail(row.url) or not hmac.compare_digest(row.secret.encode(), code.encode()):
        raise InvalidConfigError("That is not the code that was sent there.")
    connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(active=True))
    return {"id": webhook_id, "url": row.url, "active": True}


def list_webhooks(connection: Connection, organisation_id: int) -> list[dict[str, Any]]:
    """The webhooks of an organisation with their last deliveries; no secrets."""
    found = []
    for row in connection.execute(select(webhooks).where(webhooks.c.organisation_id == organisation_id)).all():
        last = connection.execute(
            select(webhook_deliveries)
            .where(webhook_deliveries.c.webhook_id == row.id)
            .order_by(webhook_deliveries.c.id.desc())
            .limit(20)
        )
        found.append(
            {
                "id": row.id,
                "url": row.url,
                "events": row.events.split(),
                "active": row.active,
                "created_at": row.created_at,
                "deliveries": [
                    {
                        "id": one.id,
                        "event": one.event,
                        "attempts": one.attempts,
                        "answer": one.answer,
                        "delivered_at": one.delivered_at,
                        "next_attempt_at": one.due_at,
                    }
                    for one in last
                ],
            }
        )
    return found


def remove_webhook(connection: Connection, organisation_id: int, webhook_id: int) -> None:
    """Delete a webhook and what it still had to deliver."""
    _own(connection, organisation_id, webhook_id)
    connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.webhook_id == webhook_id))
    connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id))


def redeliver(connection: Connection, organisation_id: int, webhook_id: int, delivery_id: int) -> None:
    """Send a delivery again, whatever became of it."""
    _own(connection, organisation_id, webhook_id)
    changed = connection.execute(
        update(webhook_deliveries)
        .where(
            webhook_deliveries.c.event != CONFIRM,
            webhook_deliveries.c.id == delivery_id,
            webhook_deliveries.c.webhook_id == webhook_id,
        )
        .values(due_at=now(), attempts=0, delivered_at=None)
    )
    if not changed.rowcount:
        raise AdapterNotFoundError(f"There is no delivery {delivery_id}.")


def sweep_deliveries(storage: Storage) -> int:
    """Forget deliveries that came to an end a month ago; returns how many."""
    old = webhook_deliveries.c.due_at.is_(None) & (webhook_deliveries.c.created_at < now(hours=-_KEPT_HOURS))
    with storage.database.write(durable=False) as connection:
        return connection.execute(delete(webhook_deliveries).where(old)).rowcount


async def deliver_webhooks(app: FastAPI) -> None:
    """Background task: deliver what is due, each delivery by one replica at a time."""
    storage: Storage = app.state.storage
    settings: Settings = app.state.settings
    while True:
        try:
            due = await run_in_threadpool(_claim, storage)
            await asyncio.gather(*(_deliver(storage, settings, row) for row in due))
        except Exception:
            log.exception("webhooks could not be delivered")
            due = []
        if not due:
            await asyncio.sleep(_POLL_SECONDS)


def _own(connection: Connection, organisation_id: int, webhook_id: int) -> None:
    row = connection.execute(
        select(webhooks.c.id).where(webhooks.c.id == webhook_id, webhooks.c.organisation_id == organisation_id)
    ).first()
    if row is None:
        raise AdapterNotFoundError(f"There is no webhook {webhook_id}.")


def _claim(storage: Storage) -> list[Row[Any]]:
    """Take deliveries that are due; for two minutes nobody else will."""
    with storage.database.read() as connection:
        query = (
            select(webhook_deliveries, webhooks.c.url, webhooks.c.secret)
            .join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook_id)
            .where(
                webhook_deliveries.c.due_at <= now(),
                or_(webhooks.c.active, webhook_deliveries.c.event == CONFIRM),
            )
            .order_by(webhook_deliveries.c.id)
            .limit(20)
        )
        found = connection.execute(query).all()
    if not found:
        return []
    mine = []
    with storage.database.write(durable=False) as connection:
        for row in found:
            taken = connection.execute(
                update(webhook_deliveries)
                .where(webhook_deliveries.c.id == row.id, webhook_deliveries.c.due_at == row.due_at)
                .values(due_at=now(hours=2 / 60))
            )
            if taken.rowcount:
                mine.append(row)
    return mine


async def _deliver(storage: Storage, settings: Settings, row: Row[Any]) -> None:
    answer, done = "", False
    try:
        if is_mail(row.url):
            answer = await run_in_threadpool(send, settings, row.url, row.event, row.body, row.id)
            done = True
        else:
            address, host, port = await run_in_threadpool(check_address, settings, row.url)
            answer, done = await _post(row, address, host, port)
    except InvalidConfigError as error:
        answer = error.message
    except (httpx.HTTPError, smtplib.SMTPException, OSError, ValueError) as error:
        answer = f"{type(error).__name__}: {error}"

    def note() -> None:
        attempts = row.attempts + 1
        retry = not done and attempts < _ATTEMPTS
        hours = settings.webhook_retry_seconds * 3 ** (attempts - 1) / 3600
        with storage.database.write(durable=False) as connection:
            connection.execute(
                update(webhook_deliveries)
                .where(webhook_deliveries.c.id == row.id)
                .values(
                    attempts=attempts,
                    answer=answer[:500],
                    due_at=now(hours=hours) if retry else None,
                    delivered_at=now() if done else None,
                )
            )

    await run_in_threadpool(note)


async def _post(row: Row[Any], address: str, host: str, port: int) -> tuple[str, bool]:
    body = row.body.encode()
    moment = int(time.time())
    target, headers, extensions = pinned(row.url, address, host, port)
    headers |= {
        "Content-Type": "application/json",
        "X-AdapterHub-Event": row.event,
        "X-AdapterHub-Delivery": str(row.id),
        "X-AdapterHub-Signature": sign(row.secret, moment, body),
    }
    async with (
        httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client,
        asyncio.timeout(3 * _TIMEOUT),
        client.stream("POST", target, content=body, headers=headers, extensions=extensions) as answer,
    ):
        read = 0
        async for piece in answer.aiter_raw():
            read += len(piece)
            if read > _MAX_ANSWER:
                break
        return f"HTTP {answer.status_code}", 200 <= answer.status_code < 300
