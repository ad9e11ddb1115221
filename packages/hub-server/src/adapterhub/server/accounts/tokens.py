"""Access tokens: random, shown once, kept as a hash, limited in scope and time."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, insert, or_, select, update

from adapterhub.server.accounts.viewer import SCOPES, Viewer
from adapterhub.server.storage.database import Database, inserted_id
from adapterhub.server.storage.tables import accounts, now as present, organisations, time_text, tokens
from adapterhub.spec.errors import AdapterNotFoundError, AuthenticationError, InvalidConfigError

__all__ = [
    "PREFIX",
    "create_token",
    "find_good_token",
    "limit_tokens",
    "list_tokens",
    "parse_duration",
    "revoke_token",
    "viewer_of",
]

#: what secret scanners look for: this and 40 letters and digits
PREFIX = "ahub_"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{40}}")
_CENTURY = 36_500 * 86_400
_USED_EVERY = 60.0  # seconds between two notes of "last used" for one token
_used: dict[int, float] = {}
_used_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token. `secret` is all there will ever be of it."""

    id: int
    secret: str = dataclasses.field(repr=False)
    scopes: tuple[str, ...] = ()
    expires_at: str | None = None


def hash_of(secret: str) -> str:
    """What is stored of a token. Plain sha256 is right for 238 random bits; passwords would need more."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse_duration(text: str) -> timedelta:
    """`90d`, `12h`, `15m`, `30s` as a time span. Raises InvalidConfigError for anything else, nothing, and more than a century."""
    found = re.fullmatch(r"([0-9]{1,10})([smhdw])", text.strip().lower())
    if not found:
        raise InvalidConfigError(f"{text!r} is no duration.", hint="Write a number and s, m, h, d or w, such as 90d.")
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]
    if not 0 < seconds <= _CENTURY:
        raise InvalidConfigError(
            f"{text!r} is no time a token could live.", hint="At most 36500d; leave it out for no end."
        )
    return timedelta(seconds=seconds)


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes in their usual order. Raises InvalidConfigError for an unknown one."""
    wanted = {word for scope in scopes for word in re.split(r"[\s,]+", scope) if word}
    if unknown := sorted(wanted - set(SCOPES)):
        raise InvalidConfigError(f"Unknown scope {unknown[0]!r}.", hint=f"Scopes are {', '.join(SCOPES)}.")
    return tuple(scope for scope in SCOPES if scope in wanted)


def create_token(
    connection: Connection,
    *,
    organisation_id: int | None,
    scopes: Iterable[str] = ("read", "publish", "yank"),
    expires: timedelta | None = None,
    name: str = "",
    adapters: str = "",
    account_id: int | None = None,
    origin: str = "cli",
    expires_at: str | None = None,
    approved_by: int | None = None,
    made_by: int | None = None,
) -> CreatedToken:
    """Make a token for an organisation, or for the whole hub (`organisation_id` None).

    Args:
        expires, expires_at: when it ends, as a span from now or as the tables write a moment.
        approved_by: the token that approved this one's making; revoking that one revokes this one.
        made_by: the token that asked for this one: what its member loses, this one loses.
    """
    kept = check_scopes(scopes)
    if not kept:
        raise InvalidConfigError("A token needs at least one scope.", hint=f"Scopes are {', '.join(SCOPES)}.")
    secret = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(40))
    if expires is not None:
        expires_at = time_text(datetime.now(UTC) + expires)
    row = connection.execute(
        insert(tokens).values(
            hash=hash_of(secret),
            start=secret[:9],
            name=name,
            organisation_id=organisation_id,
            account_id=account_id,
            scopes=" ".join(kept),
            adapters=adapters,
            origin=origin,
            created_at=present(),
            expires_at=expires_at,
            approved_by=approved_by,
            made_by=made_by,
        )
    )
    return CreatedToken(inserted_id(row), secret, kept, expires_at)


def list_tokens(connection: Connection, organisation_id: int | None = None) -> list[dict[str, Any]]:
    """Tokens without their secrets, newest first; of one organisation or of all."""
    query = (
        select(tokens, organisations.c.name.label("organisation"))
        .outerjoin(organisations, organisations.c.id == tokens.c.organisation_id)
        .order_by(tokens.c.id.desc())
    )
    if organisation_id is not None:
        query = query.where(tokens.c.organisation_id == organisation_id)
    return [
        {
            "id": row.id,
            "start": row.start,
            "name": row.name,
            "organisation": row.organisation,
            "scopes": row.scopes.split(),
            "adapters": row.adapters,
            "origin": row.origin,
            "made_by": row.made_by or row.approved_by,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "revoked_at": row.revoked_at,
            "used_at": row.used_at,
            "active": row.revoked_at is None and (row.expires_at is None or row.expires_at > present()),
        }
        for row in connection.execute(query)
    ]


def revoke_token(connection: Connection, token_id: int, organisation_id: int | None = None) -> None:
    """Make a token, and those it approved, useless from now on. Revoking twice is fine.

    Raises:
        AdapterNotFoundError: there is no such token.
    """
    query = select(tokens.c.id, tokens.c.revoked_at).where(tokens.c.id == token_id)
    if organisation_id is not None:
        query = query.where(tokens.c.organisation_id == organisation_id)
    row = connection.execute(query).first()
    if row is None:
        raise AdapterNotFoundError(f"There is no token {token_id}.")
    ending = [token_id]
    while ending:
        here = tokens.c.id.in_(ending)
        connection.execute(update(tokens).where(here, tokens.c.revoked_at.is_(None)).values(revoked_at=present()))
        ending = list(connection.execute(select(tokens.c.id).where(tokens.c.approved_by.in_(ending))).scalars())


def limit_tokens(
    connection: Connection, organisation_id: int, account_id: int, allowed: Iterable[str]
) -> dict[str, list[int]]:
    """Take from a member's tokens, those they asked for and those they approved, and so on, all scopes that are not `allowed`.

    Whoever asks for a token sees its secret, also where it is for somebody else. One that has no scope left is revoked.
    To be done in a `change`: a token made meanwhile would be missed.

    Returns:
        The numbers of the tokens that were `revoked` and `narrowed`.
    """
    within = tokens.c.organisation_id == organisation_id
    found: dict[int, Row[Any]] = {}
    here: ColumnElement[bool] = tokens.c.account_id == account_id
    while more := {
        row.id: row for row in connection.execute(select(tokens).where(within, here)) if row.id not in found
    }:
        found |= more
        here = or_(tokens.c.made_by.in_(more), tokens.c.approved_by.in_(more))
    done: dict[str, list[int]] = {"revoked": [], "narrowed": []}
    for row in sorted(found.values(), key=lambda row: row.id):
        scopes = row.scopes.split()
        kept = [scope for scope in scopes if scope in set(allowed)]
        if row.revoked_at is not None or (kept and kept == scopes):
            continue
        done["narrowed" if kept else "revoked"].append(row.id)
        values = {"scopes": " ".join(kept)} if kept else {"revoked_at": present()}
        connection.execute(update(tokens).where(tokens.c.id == row.id).values(**values))
    return done


def find_good_token(connection: Connection, token_id: int) -> Row[Any] | None:
    """The row of a token, unless it is revoked or expired."""
    return connection.execute(
        select(tokens).where(
            tokens.c.id == token_id,
            tokens.c.revoked_at.is_(None),
            or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > present()),
        )
    ).first()


_HOLDER = (
    select(
        tokens,
        organisations.c.name.label("organisation"),
        organisations.c.retired_at,
        accounts.c.name.label("account"),
        accounts.c.disabled_at,
    )
    .outerjoin(organisations, organisations.c.id == tokens.c.organisation_id)
    .outerjoin(accounts, accounts.c.id == tokens.c.account_id)
    .where(tokens.c.hash == bindparam("hash"))
)


def viewer_of(database: Database, authorization: str | None) -> Viewer:
    """The viewer an `Authorization` header stands for; anonymous without one.

    Raises:
        AuthenticationError: another scheme, or a token that is unknown, expired or revoked (all said alike).
    """
    if not authorization:
        return Viewer()
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise AuthenticationError("The Authorization header is not `Bearer <token>`.")
    row = None
    if _SHAPE.fullmatch(secret):
        with database.read() as connection:
            row = connection.execute(_HOLDER, {"hash": hash_of(secret)}).first()
    moment = present()
    if (
        row is None
        or row.revoked_at is not None
        or (row.expires_at is not None and row.expires_at <= moment)
        or row.retired_at is not None
        or row.disabled_at is not None
    ):
        raise AuthenticationError(
            "The token is unknown, expired or revoked.", hint="Make a new one and run `adapterhub login`."
        )
    _note_use(database, int(row.id), moment)
    who = row.account or row.organisation or "hub"
    return Viewer(
        token_id=int(row.id),
        name=f"{who} (token {row.id})",
        organisation_id=row.organisation_id,
        account_id=row.account_id,
        scopes=frozenset(row.scopes.split()),
        adapters=row.adapters,
        origin=row.origin,
    )


def _note_use(database: Database, token_id: int, moment: str) -> None:
    clock = time.monotonic()
    with _used_lock:
        if clock - _used.get(token_id, -_USED_EVERY) < _USED_EVERY:
            return
        _used[token_id] = clock
    with database.write(durable=False) as connection:
        connection.execute(update(tokens).where(tokens.c.id == token_id).values(used_at=moment))
