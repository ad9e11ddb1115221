"""What became of every version of an adapter, tombstones included."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.tables import adapters, organisations, versions
from adapterhub.spec.errors import AdapterNotFoundError
from adapterhub.spec.reference import fold

__all__ = ["adapter_history", "adapter_row"]


def adapter_row(connection: Connection, namespace: str, name: str, viewer: Viewer, scope: str = "read") -> Row[Any]:
    """The adapter's row with `namespace` beside it, also when none of its versions is published (any more).

    Args:
        scope: what the viewer wants to do with it, see `Viewer.sees`.

    Raises:
        AdapterNotFoundError: there is none, or none this viewer may know of.
    """
    row = connection.execute(
        select(adapters, organisations.c.name.label("namespace"))
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(organisations.c.key == fold(namespace), adapters.c.key == fold(name), viewer.sees(adapters, scope))
    ).first()
    if row is None or not (row.listed or is_own(row, viewer) or _was_public(connection, row.id)):
        raise AdapterNotFoundError(f"There is no adapter @{namespace}/{name}.", hint="Search at /v1/adapters?q=…")
    return row


def adapter_history(connection: Connection, namespace: str, name: str, viewer: Viewer) -> dict[str, Any]:
    """The versions of an adapter, newest first, as far as the viewer may know of them."""
    row = adapter_row(connection, namespace, name, viewer)
    own = is_own(row, viewer)
    found = connection.execute(
        select(versions).where(versions.c.adapter_id == row.id).order_by(versions.c.serial.desc(), versions.c.id.desc())
    )
    return {
        "namespace": row.namespace,
        "name": row.name,
        "default_version": row.default_version,
        "versions": [
            {
                "version": version.version,
                "digest": version.digest,
                "state": version.state,
                "reason": version.reason,
                "yanked": version.yanked,
                "yanked_reason": version.yanked_reason or None,
                "size": version.size,
                "created_at": version.created_at,
                "published_at": version.published_at,
            }
            for version in found
            if own or version.published_at is not None
        ],
    }


def is_own(adapter: Row[Any], viewer: Viewer) -> bool:
    """Whether the viewer acts for the adapter's organisation, or for the hub."""
    return viewer.is_operator or (bool(viewer.scopes) and viewer.organisation_id == adapter.organisation_id)


def _was_public(connection: Connection, adapter_id: int) -> bool:
    gone = select(versions.c.id).where(
        versions.c.adapter_id == adapter_id,
        versions.c.state.in_(("deleted", "quarantined")),
        versions.c.published_at.is_not(None),
    )
    return connection.execute(gone.limit(1)).first() is not None
