"""Organisations: the namespaces adapters are published in. A name, once taken, is never given to anyone else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import vocabulary
from adapterhub.server.storage.database import inserted_id
from adapterhub.server.storage.tables import adapters, now, organisations
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError, VersionExistsError
from adapterhub.spec.reference import fold

__all__ = [
    "RESERVED",
    "create_organisation",
    "describe",
    "find_organisation",
    "list_organisations",
    "update_organisation",
]

#: names that would read as something else in a reference, an address or a page
RESERVED = frozenset(
    [
        "sha256",
        "ah",
        "hf",
        "hub",
        "admin",
        "api",
        "adapterhub",
        "anonymous",
        "docs",
        "explore",
        "feed",
        "healthz",
        "index",
        "metrics",
        "me",
        "new",
        "none",
        "null",
        "openapi",
        "org",
        "organisation",
        "organisations",
        "readyz",
        "search",
        "settings",
        "static",
        "system",
        "v1",
    ]
)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9+])?")
_LOOKALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "-": None, "+": None})
_SHORT = 5
_WELL_KNOWN = 1000
_EDITABLE = (
    "display_name",
    "description",
    "url",
    "private",
    "review",
    "trusted_only",
)
_OPERATOR_ONLY = ("max_bytes", "max_versions_per_day")


def create_organisation(
    connection: Connection, name: str, *, display_name: str = "", private: bool = False, allow_reserved: bool = False
) -> int:
    """Make an organisation; returns its id.

    Raises:
        InvalidConfigError: a name outside the grammar, reserved, or hard to tell from an existing one.
        VersionExistsError: the name is or was in use.
    """
    if not _NAME.fullmatch(name):
        raise InvalidConfigError(
            f"{name!r} is no name for an organisation.",
            hint="Use up to 64 letters, digits, '.', '_', '-' and '+', starting and ending with a letter or digit.",
        )
    key = fold(name)
    if key in RESERVED and not allow_reserved:
        raise InvalidConfigError(f"The name {name!r} is reserved.", hint="Choose another one.")
    row = connection.execute(select(organisations).where(organisations.c.key == key)).first()
    if row is not None:
        state = "was in use; names are never given out twice" if row.retired_at else f"is taken by {row.name}"
        raise VersionExistsError(f"The organisation name {name!r} {state}.", hint="Choose another one.")
    if not allow_reserved:
        _refuse_confusing(connection, name, key)
    result = connection.execute(
        insert(organisations).values(
            name=name, key=key, display_name=display_name or name, private=private, created_at=now()
        )
    )
    return inserted_id(result)


def _refuse_confusing(connection: Connection, name: str, key: str) -> None:
    """Raise InvalidConfigError for a name that reads like another one's, like a task, or like a typing error of a known one."""
    shape = _shape(key)
    for other in connection.execute(select(organisations.c.name, organisations.c.key)):
        if _shape(other.key) == shape:
            raise InvalidConfigError(
                f"The name {name!r} is too easily taken for {other.name!r}.", hint="Choose another one."
            )
    if connection.execute(select(vocabulary.c.task).where(vocabulary.c.task_key == key).limit(1)).first() is not None:
        raise InvalidConfigError(f"{name!r} is the name of a task.", hint="Choose another one.")
    if len(key) < _SHORT:
        return  # among short names nearly everything is one letter apart
    known = (
        select(organisations.c.name, organisations.c.key, func.sum(adapters.c.downloads).label("downloads"))
        .join(adapters, adapters.c.organisation_id == organisations.c.id)
        .where(adapters.c.listed)
        .group_by(organisations.c.id, organisations.c.name, organisations.c.key)
        .order_by(func.sum(adapters.c.downloads).desc())
        .limit(_WELL_KNOWN)
    )
    for popular in connection.execute(known):
        if _one_slip_apart(key, popular.key):
            raise InvalidConfigError(
                f"The name {name!r} is one slip of a finger from {popular.name!r}.",
                hint="Choose another one; an operator can allow it with adapterhub-server org create.",
            )


def _shape(key: str) -> str:
    """What is left of a name for a hasty eye."""
    return key.translate(_LOOKALIKE).replace("rn", "m").replace("vv", "w")


def _one_slip_apart(one: str, other: str) -> bool:
    """Whether one letter was added, left out, replaced, or swapped with its neighbour (Damerau 1964)."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    one, other = one[start:], other[start:]
    swapped = one[:2] == other[:2][::-1] and one[2:] == other[2:]
    return swapped or one[1:] == other or one == other[1:] or one[1:] == other[1:]


def find_organisation(connection: Connection, name: str, viewer: Viewer | None = None) -> Row[Any]:
    """The row of an organisation.

    Args:
        viewer: hide a private organisation from those outside, exactly as if it did not exist.

    Raises:
        AdapterNotFoundError: there is none (to be seen).
    """
    row = connection.execute(select(organisations).where(organisations.c.key == fold(name))).first()
    if row is None or row.retired_at is not None or (row.private and viewer is not None and not viewer.knows(row.id)):
        raise AdapterNotFoundError(f"There is no organisation {name!r}.", hint="Names are listed at /v1/organisations.")
    return row


def list_organisations(connection: Connection, viewer: Viewer | None = None) -> list[dict[str, Any]]:
    """All organisations by name, with the number of adapters of each."""
    counts = (
        select(adapters.c.organisation_id, func.count().label("adapters"))
        .where(adapters.c.listed)
        .group_by(adapters.c.organisation_id)
        .subquery()
    )
    rows = connection.execute(
        select(organisations, func.coalesce(counts.c.adapters, 0).label("adapters"))
        .outerjoin(counts, counts.c.organisation_id == organisations.c.id)
        .where(organisations.c.retired_at.is_(None))
        .order_by(organisations.c.key)
    )
    return [describe(row, row.adapters) for row in rows if viewer is None or not row.private or viewer.knows(row.id)]


def describe(row: Row[Any], adapter_count: int | None = None) -> dict[str, Any]:
    """An organisation as the API shows it."""
    shown = {
        "name": row.name,
        "display_name": row.display_name,
        "description": row.description,
        "url": row.url,
        "private": row.private,
        "review": row.review,
        "trusted_only": row.trusted_only,
        "created_at": row.created_at,
        "used_bytes": row.used_bytes,
        "max_bytes": row.max_bytes,
        "max_versions_per_day": row.max_versions_per_day,
    }
    return shown if adapter_count is None else {**shown, "adapters": adapter_count}


def update_organisation(
    connection: Connection, row: Row[Any], changes: Mapping[str, Any], viewer: Viewer
) -> dict[str, Any]:
    """Change what may be changed; returns the changes made. Raises InvalidConfigError for anything else."""
    allowed = _EDITABLE + (_OPERATOR_ONLY if viewer.is_operator else ())
    if unknown := sorted(set(changes) - set(allowed)):
        raise InvalidConfigError(
            f"{unknown[0]!r} cannot be changed with this token.", hint=f"Can be: {', '.join(allowed)}."
        )
    url = changes.get("url")
    if url and not re.fullmatch(r"https?://[^\s\"'<>]{1,500}", url):
        raise InvalidConfigError(f"{url!r} is no http(s) address.")
    made = {name: value for name, value in changes.items() if getattr(row, name) != value}
    if made:
        connection.execute(update(organisations).where(organisations.c.id == row.id).values(**made))
        if "private" in made:
            connection.execute(
                update(adapters).where(adapters.c.organisation_id == row.id).values(private=made["private"])
            )
    return made
