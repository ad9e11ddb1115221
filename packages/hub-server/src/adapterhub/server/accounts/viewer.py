"""Who is asking, and what they may see and do."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import ColumnElement, Table, false, or_, true

from adapterhub.spec.errors import AuthenticationError

__all__ = ["ANONYMOUS", "SCOPES", "Viewer", "forbidden"]

#: read: see what is private; publish, yank: change; review: decide on submissions; admin: settings, members, tokens
SCOPES = ("read", "publish", "yank", "review", "admin")


def forbidden(message: str, hint: str = "") -> AuthenticationError:
    """The error for a known token that may not do this: 403 over HTTP."""
    error = AuthenticationError(message, hint=hint)
    error.http_status = 403  # type: ignore[attr-defined]
    return error


@dataclasses.dataclass(frozen=True, slots=True)
class Viewer:
    """The holder of a token, or nobody in particular.

    Args:
        token_id: None for an anonymous request.
        name: how the audit log calls them.
        organisation_id: the organisation the token acts for; None with a token: the whole hub.
        scopes: of `SCOPES`.
        adapters: folded name pattern the token is limited to; empty: any.
    """

    token_id: int | None = None
    name: str = "anonymous"
    organisation_id: int | None = None
    account_id: int | None = None
    scopes: frozenset[str] = frozenset()
    adapters: str = ""
    origin: str = ""

    @property
    def is_operator(self) -> bool:
        """Holds an admin token of the whole hub, not one limited to some adapters."""
        return self.token_id is not None and self.organisation_id is None and self.may("admin") and not self.adapters

    @property
    def sees_private(self) -> bool:
        """Whether the token shows what is private in its organisation."""
        return self.may("read")

    def may(self, scope: str) -> bool:
        """Whether the token has this scope; admin has them all."""
        return self.token_id is not None and not self.scopes.isdisjoint((scope, "admin"))

    def require(self, scope: str, organisation_id: int | None = None, adapter_key: str = "") -> None:
        """Raise AuthenticationError (401 without a token, 403 with a wrong one) unless the viewer may do this.

        Args:
            scope: what is to be done; a token with scope admin may do all of it.
            organisation_id: whose belongings it concerns.
            adapter_key: folded adapter name it concerns.
        """
        if self.token_id is None:
            raise AuthenticationError(
                "This needs a token.", hint="Send `Authorization: Bearer ahub_…` (adapterhub login)."
            )
        if not self.may(scope):
            raise forbidden(
                f"This token lacks the scope {scope!r}.", f"Its scopes: {' '.join(sorted(self.scopes)) or 'none'}."
            )
        if organisation_id is not None and self.organisation_id not in (None, organisation_id):
            raise forbidden("This token belongs to another organisation.")
        if not self.adapters:
            return
        if adapter_key and not fnmatchcase(adapter_key, self.adapters):
            raise forbidden(f"This token is limited to adapters named {self.adapters!r}.")
        if scope == "admin" and not adapter_key:
            raise forbidden(f"This token is limited to adapters named {self.adapters!r}, and administers nothing else.")

    def knows(self, organisation_id: int) -> bool:
        """Whether the viewer may know that a private organisation exists: every token of its own does."""
        return self.token_id is not None and bool(self.scopes) and self.organisation_id in (None, organisation_id)

    def sees(self, table: Table | Any, scope: str = "read") -> ColumnElement[bool]:
        """The SQL condition on `table` (with columns `private`, `organisation_id`) for rows the viewer may see.

        Args:
            scope: what for; to yank something private takes the scope to yank, not the one to read.
        """
        if not self.may(scope):
            return table.c.private == false()
        if self.organisation_id is None:
            return true()
        return or_(table.c.private == false(), table.c.organisation_id == self.organisation_id)


ANONYMOUS = Viewer()
