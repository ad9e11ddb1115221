"""What else has to change when an adapter changes: search, counters. One transaction, one list.

A domain that keeps something derived from `adapters` and `versions` adds a `Projection` here. `apply` is called inside
the transaction that changed the adapters, `rebuild` by `adapterhub-server verify --rebuild` and by restores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

__all__ = ["Projection", "project", "projections", "rebuild_all"]


class Projection(Protocol):
    """Something that can be computed from the records, and is kept up to date with them."""

    name: str

    def apply(self, connection: Connection, adapter_ids: Sequence[int]) -> None:
        """Bring what is kept about these adapters up to date."""

    def rebuild(self, connection: Connection) -> None:
        """Compute everything anew."""


def projections() -> tuple[Projection, ...]:
    """Every projection of this server."""
    from adapterhub.server.catalogue.listings import ListingsProjection
    from adapterhub.server.resolving.pairs import PairProjection

    return (PairProjection(), ListingsProjection())


def project(connection: Connection, adapter_ids: Sequence[int]) -> None:
    """Tell every projection that these adapters changed."""
    for projection in projections():
        projection.apply(connection, adapter_ids)


def rebuild_all(connection: Connection) -> list[str]:
    """Compute every projection anew; returns their names."""
    found = projections()
    for projection in found:
        projection.rebuild(connection)
    return [projection.name for projection in found]
