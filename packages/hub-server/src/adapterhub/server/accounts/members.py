"""People and services that act for an organisation, by role."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from adapterhub.server.accounts.tokens import limit_tokens
from adapterhub.server.accounts.viewer import SCOPES
from adapterhub.server.storage.database import inserted_id
from adapterhub.server.storage.tables import accounts, members, now
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError, PolicyError
from adapterhub.spec.reference import fold

__all__ = ["ROLES", "allowed_scopes", "list_members", "remove_member", "scopes_of", "set_member"]

#: what each role may do at most
ROLES: dict[str, tuple[str, ...]] = {
    "owner": SCOPES,
    "maintainer": ("read", "publish", "yank", "review"),
    "publisher": ("read", "publish", "yank"),
    "reviewer": ("read", "review"),
    "reader": ("read",),
}
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+@-]{0,62}[A-Za-z0-9])?")


def list_members(connection: Connection, organisation_id: int) -> list[dict[str, Any]]:
    """Members by name."""
    rows = connection.execute(
        select(accounts.c.name, members.c.role, members.c.since)
        .join(members, members.c.account_id == accounts.c.id)
        .where(members.c.organisation_id == organisation_id)
        .order_by(accounts.c.key)
    )
    return [{"account": row.name, "role": row.role, "since": row.since} for row in rows]


def set_member(connection: Connection, organisation_id: int, account: str, role: str) -> dict[str, Any]:
    """Add a member or change the role of one; their tokens, and those they made, lose what the new role does not allow.

    Returns:
        The account, its role, and which tokens were `revoked` and `narrowed`.
    """
    if role not in ROLES:
        raise InvalidConfigError(f"There is no role {role!r}.", hint=f"Roles: {', '.join(ROLES)}.")
    if not _NAME.fullmatch(account):
        raise InvalidConfigError(f"{account!r} is no name for an account.")
    row = connection.execute(select(accounts).where(accounts.c.key == fold(account))).first()
    if row is None:
        made = connection.execute(insert(accounts).values(name=account, key=fold(account), created_at=now()))
        account_id = inserted_id(made)
    else:
        account_id = int(row.id)
    here = (members.c.organisation_id == organisation_id) & (members.c.account_id == account_id)
    lost: dict[str, list[int]] = {"revoked": [], "narrowed": []}
    before = connection.execute(select(members.c.role).where(here)).scalar_one_or_none()
    if before is None:
        connection.execute(
            insert(members).values(organisation_id=organisation_id, account_id=account_id, role=role, since=now())
        )
    else:
        if before == "owner" and role != "owner":
            _keep_an_owner(connection, organisation_id, account_id)
        connection.execute(update(members).where(here).values(role=role))
        lost = limit_tokens(connection, organisation_id, account_id, ROLES[role])
    return {"account": account, "role": role, **lost}


def remove_member(connection: Connection, organisation_id: int, account: str) -> dict[str, list[int]]:
    """End a membership; the member's tokens for this organisation, and those they made, are revoked: their numbers."""
    account_id, _ = allowed_scopes(connection, organisation_id, account)
    _keep_an_owner(connection, organisation_id, account_id)
    connection.execute(
        delete(members).where(members.c.organisation_id == organisation_id, members.c.account_id == account_id)
    )
    return limit_tokens(connection, organisation_id, account_id, ())


def allowed_scopes(connection: Connection, organisation_id: int, account: str) -> tuple[int, tuple[str, ...]]:
    """The account's id and what its role allows. Raises AdapterNotFoundError for one who is no member."""
    row = connection.execute(
        select(accounts.c.id, members.c.role)
        .join(members, members.c.account_id == accounts.c.id)
        .where(members.c.organisation_id == organisation_id, accounts.c.key == fold(account))
    ).first()
    if row is None:
        raise AdapterNotFoundError(f"{account!r} is no member.")
    return int(row.id), ROLES[row.role]


def scopes_of(connection: Connection, organisation_id: int, account_id: int) -> tuple[str, ...]:
    """What the role of an account allows; nothing for one who is no member (any more)."""
    role = connection.execute(
        select(members.c.role).where(members.c.organisation_id == organisation_id, members.c.account_id == account_id)
    ).scalar_one_or_none()
    return ROLES[role] if role else ()


def _keep_an_owner(connection: Connection, organisation_id: int, account_id: int) -> None:
    owners = set(
        connection.execute(
            select(members.c.account_id).where(members.c.organisation_id == organisation_id, members.c.role == "owner")
        ).scalars()
    )
    if owners == {account_id}:
        raise PolicyError("The last owner stays.", hint="Make somebody else an owner first.")
