"""Login by device code: a program without a browser asks, a person approves elsewhere, the program gets a token (RFC 8628).

The program gets two codes: a long one that only it has, and a short one that a person types on the hub's page `/device`
beside a token of theirs, or that an administrator gives to `adapterhub-server token approve`. What comes out can do at most
what the approving token can, lives no longer, and ends with it. Codes are kept as hashes, for minutes, and work once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from adapterhub.server.accounts.members import allowed_scopes, scopes_of
from adapterhub.server.accounts.organisations import find_organisation
from adapterhub.server.accounts.tables import device_codes
from adapterhub.server.accounts.tokens import CreatedToken, check_scopes, create_token, find_good_token
from adapterhub.server.accounts.viewer import SCOPES, Viewer, forbidden
from adapterhub.server.moderation.audit import record
from adapterhub.server.settings import Settings
from adapterhub.server.storage.database import Database, hub_text
from adapterhub.server.storage.tables import now
from adapterhub.spec.errors import (
    AdapterNotFoundError,
    AuthenticationError,
    InvalidConfigError,
    PolicyError,
    QuotaExceededError,
)

__all__ = ["GRANT_TYPE", "Waiting", "approve", "begin", "decide", "find_waiting", "redeem", "refusal"]

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"

#: no vowels, so that no words come up, and nothing that is read for something else (RFC 8628 §6.1)
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_MOST_OPEN = 1000
_SLOWER_BY = 5.0
_LIFETIME = timedelta(days=90)
_DEFAULT_SCOPES = ("read", "publish", "yank")
_PRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """A login somebody may approve: what the page shows first."""

    user_code: str
    scopes: tuple[str, ...]
    client: str
    address: str
    created_at: str


def begin(
    database: Database, settings: Settings, *, scopes: Iterable[str], client: str, address: str
) -> dict[str, Any]:
    """Make a pair of codes. `verification_uri` is for the caller to add.

    Raises:
        AuthenticationError: an unknown scope (`invalid_scope`).
        QuotaExceededError: more logins wait than anybody could mean.
    """
    try:
        wanted = check_scopes(scopes) or _DEFAULT_SCOPES
    except InvalidConfigError as error:
        raise refusal("invalid_scope", error.message, error.hint) from None
    device_code = secrets.token_urlsafe(32)
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    user_code = f"{letters[:4]}-{letters[4:]}"
    with database.write(durable=False) as connection:
        connection.execute(delete(device_codes).where(device_codes.c.expires_at < now()))
        if connection.execute(select(func.count()).select_from(device_codes)).scalar_one() >= _MOST_OPEN:
            raise QuotaExceededError("Too many logins are waiting for approval.", hint="Try again in some minutes.")
        connection.execute(
            insert(device_codes).values(
                hash=_hash(device_code),
                user_hash=_user_hash(connection, user_code),
                state="waiting",
                scopes=" ".join(wanted),
                client=_PRINTABLE.sub(" ", client)[:100].strip(),
                address=address[:100],
                created_at=now(),
                expires_at=now(hours=settings.device_minutes / 60),
                next_poll_at=now(),
                pause=f"{settings.device_poll_seconds:g}",
            )
        )
    return {
        "device_code": device_code,
        "user_code": user_code,
        "expires_in": int(settings.device_minutes * 60),
        "interval": math.ceil(settings.device_poll_seconds),
    }


def find_waiting(connection: Connection, user_code: str) -> Waiting:
    """What waits under a code a person typed. Raises AdapterNotFoundError when nothing does (any more)."""
    row = _waiting(connection, user_code)
    return Waiting(_as_shown(user_code), tuple(row.scopes.split()), row.client, row.address, row.created_at)


def decide(database: Database, viewer: Viewer, user_code: str, *, yes: bool) -> Waiting:
    """Approve or refuse with a token of one's own.

    Raises:
        AuthenticationError: the token is that of a job or of the whole hub, or lacks every scope asked for.
        AdapterNotFoundError: nothing waits under this code.
    """
    if viewer.token_id is None or viewer.origin == "oidc":
        raise forbidden("Logins are approved by people, with a token of theirs.")
    if viewer.organisation_id is None:
        raise forbidden(
            "This token acts for the whole hub; a login is for one organisation.",
            f"Take a token of the organisation, or run: adapterhub-server token approve {_as_shown(user_code)} --org NAME",
        )
    with database.write() as connection:
        waiting = find_waiting(connection, user_code)
        allowed = SCOPES if "admin" in viewer.scopes else viewer.scopes
        granted = [scope for scope in waiting.scopes if scope in allowed]
        if yes and not granted:
            raise forbidden(
                f"This token has none of the scopes asked for: {' '.join(waiting.scopes)}.",
                f"It has {' '.join(sorted(viewer.scopes))}.",
            )
        values: dict[str, Any] = {"state": "approved" if yes else "denied", "approved_by": viewer.token_id}
        if yes:
            own = find_good_token(connection, viewer.token_id)
            if own is None:
                raise forbidden("This token has just ended.")
            latest = now(hours=_LIFETIME.total_seconds() / 3600)
            values |= {
                "scopes": " ".join(granted),
                "organisation_id": viewer.organisation_id,
                "account_id": viewer.account_id,
                "adapters": viewer.adapters,
                "token_expires_at": min(latest, own.expires_at or latest),
            }
        _settle(connection, user_code, values)
        return waiting


def approve(
    connection: Connection,
    user_code: str,
    organisation: str,
    *,
    scopes: Iterable[str] = (),
    account: str = "",
    lifetime: timedelta | None = None,
) -> Waiting:
    """Approve from the hub's own command line, for an organisation and maybe one of its members.

    Args:
        scopes: of those asked for; all of them when empty.
        account: a member; the token can then do what their role allows, and ends with their membership.
    """
    waiting = find_waiting(connection, user_code)
    row = find_organisation(connection, organisation)
    granted = set(check_scopes(scopes)) & set(waiting.scopes) if scopes else set(waiting.scopes)
    account_id = None
    if account:
        account_id, allowed = allowed_scopes(connection, row.id, account)
        granted &= set(allowed)
    if not granted:
        raise PolicyError(f"Nothing is left of the scopes asked for: {' '.join(waiting.scopes)}.")
    hours = (lifetime or _LIFETIME).total_seconds() / 3600
    values = {
        "state": "approved",
        "scopes": " ".join(check_scopes(granted)),
        "organisation_id": row.id,
        "account_id": account_id,
        "token_expires_at": now(hours=hours),
    }
    _settle(connection, user_code, values)
    return waiting


def redeem(database: Database, device_code: str) -> CreatedToken:
    """The token, once somebody approved. It is made now, and the code is gone.

    Raises:
        AuthenticationError: with `error` in its details: `authorization_pending`, `slow_down`, `access_denied`,
            `expired_token` or `invalid_grant`. Status 400, as OAuth 2.0 asks.
    """
    refused: AuthenticationError | None = None
    made: CreatedToken | None = None
    with database.change() as connection:
        here = device_codes.c.hash == _hash(device_code)
        row = connection.execute(select(device_codes).where(here)).first()
        if row is None:
            refused = refusal("invalid_grant", "This device code is unknown, or was used already.", "Log in again.")
        elif row.expires_at <= now():
            refused = refusal("expired_token", "Nobody approved in time.", "Log in again.")
        elif row.state == "denied":
            refused = refusal("access_denied", "The login was refused.")
        elif row.state == "waiting":
            refused = _not_yet(connection, row)
        elif connection.execute(delete(device_codes).where(here, device_codes.c.state == "approved")).rowcount:
            made = _token(connection, row)
    if made is None:
        raise refused or refusal("access_denied", "Whoever approved may not do so any more.")
    return made


def _token(connection: Connection, row: Row[Any]) -> CreatedToken | None:
    """Make what was approved, if it could still be approved now."""
    scopes = set(row.scopes.split())
    if row.approved_by is not None:
        approver = find_good_token(connection, row.approved_by)
        if approver is None:
            return None
        left = approver.scopes.split()
        scopes &= set(SCOPES if "admin" in left else left)
    if row.account_id is not None:
        scopes &= set(scopes_of(connection, row.organisation_id, row.account_id))
    if not scopes:
        return None
    made = create_token(
        connection,
        organisation_id=row.organisation_id,
        scopes=scopes,
        name=f"device login: {row.client}"[:200],
        adapters=row.adapters,
        account_id=row.account_id,
        origin="device",
        expires_at=row.token_expires_at,
        approved_by=row.approved_by,
    )
    by = f"token {row.approved_by}" if row.approved_by is not None else "command line"
    record(
        connection,
        by,
        "token.create",
        f"token {made.id}",
        {"scopes": list(made.scopes), "expires_at": made.expires_at, "device": row.client, "address": row.address},
        organisation_id=row.organisation_id,
        private=True,
    )
    return made


def _not_yet(connection: Connection, row: Row[Any]) -> AuthenticationError:
    """Still waiting; who asks too often has to wait longer from then on."""
    pause, early = float(row.pause), row.next_poll_at > now()
    pause += _SLOWER_BY if early else 0.0
    connection.execute(
        update(device_codes)
        .where(device_codes.c.hash == row.hash)
        .values(next_poll_at=now(hours=pause * 0.9 / 3600), pause=f"{pause:g}")
    )
    if early:
        return refusal("slow_down", f"Ask again after {pause:g} seconds, not earlier.")
    return refusal("authorization_pending", "Nobody has approved yet.")


def refusal(error: str, message: str, hint: str = "") -> AuthenticationError:
    """What a program that polls is told: `error` is one of RFC 8628's words."""
    refused = AuthenticationError(message, hint=hint, details={"error": error, "error_description": message})
    refused.http_status = 400  # type: ignore[attr-defined]
    return refused


def _settle(connection: Connection, user_code: str, values: dict[str, Any]) -> None:
    changed = connection.execute(
        update(device_codes)
        .where(device_codes.c.user_hash == _user_hash(connection, user_code), device_codes.c.state == "waiting")
        .values(**values)
    )
    if not changed.rowcount:
        raise _nothing()


def _waiting(connection: Connection, user_code: str) -> Row[Any]:
    row = connection.execute(
        select(device_codes).where(
            device_codes.c.user_hash == _user_hash(connection, user_code),
            device_codes.c.state == "waiting",
            device_codes.c.expires_at > now(),
        )
    ).first()
    if row is None:
        raise _nothing()
    return row


def _nothing() -> AdapterNotFoundError:
    return AdapterNotFoundError("No login waits under this code.", hint="Codes live for some minutes; start again.")


def _plain(user_code: str) -> str:
    """The letters of a code, however a person wrote it."""
    return "".join(letter for letter in user_code.upper() if letter in _LETTERS)[:16]


def _as_shown(user_code: str) -> str:
    letters = _plain(user_code)
    return f"{letters[:4]}-{letters[4:]}"


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _user_hash(connection: Connection, user_code: str) -> str:
    """Keyed, since eight letters could be tried out against a stolen table (they live for minutes, too)."""
    return hmac.new(hub_text(connection, "id").encode(), _plain(user_code).encode(), hashlib.sha256).hexdigest()
