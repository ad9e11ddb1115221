"""Takes candidates from the full-text index: the most popular matches first, and only as many as asked for.

Rows come as plain tuples straight from the driver, since a question may look at a thousand of them; `RANK`, `NAME`, … are
the positions in such a tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, func, select, text

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import facet_counts, listings
from adapterhub.server.search.question import Match, fts5_expression, tsquery_expression

__all__ = ["COUNT_LIMIT", "Candidate", "candidates", "count_all", "count_matches", "has_matches", "ranks"]

Candidate: TypeAlias = tuple[Any, ...]

#: Matches of several words are counted up to here.
COUNT_LIMIT = 2000

_COLUMNS = (
    "rank", "name_key", "namespace_key", "kind", "task_key", "subtask_key", "model_name", "family", "method", "using",
    "languages", "license", "downloads",
)  # fmt: skip
RANK, NAME, NAMESPACE, KIND, TASK, SUBTASK, MODEL, FAMILY, METHOD, USING, LANGUAGES, LICENSE, DOWNLOADS = range(13)

_LISTED = ", ".join(f'l."{name}"' for name in _COLUMNS)
_SQLITE = (
    f"SELECT {_LISTED} FROM listings_text t CROSS JOIN listings l INDEXED BY ix_listings_light ON l.rank = t.rowid "
    "WHERE t.listings_text MATCH ? AND t.rowid > ? ORDER BY t.rowid LIMIT ?"
)
_SQLITE_RANKS = "SELECT rowid FROM listings_text WHERE listings_text MATCH ? AND rowid > ? ORDER BY rowid LIMIT ?"
_POSTGRESQL = (
    f"SELECT {_LISTED} FROM listings l WHERE l.tsv @@ CAST(%s AS tsquery) AND l.rank > %s ORDER BY l.rank LIMIT %s"
)
_POSTGRESQL_RANKS = "SELECT rank FROM listings WHERE tsv @@ CAST(%s AS tsquery) AND rank > %s ORDER BY rank LIMIT %s"


def candidates(
    connection: Connection, matches: Sequence[Match], viewer: Viewer, *, start: int = 0, limit: int
) -> list[Candidate]:
    """The first `limit` matches behind rank `start` that the viewer may see, most popular first."""
    return _fetch(connection, _SQLITE, _POSTGRESQL, matches, viewer, start, limit)


def ranks(connection: Connection, matches: Sequence[Match], viewer: Viewer, *, limit: int) -> list[int]:
    """The ranks of the first `limit` matches alone."""
    return [row[0] for row in _fetch(connection, _SQLITE_RANKS, _POSTGRESQL_RANKS, matches, viewer, 0, limit)]


def has_matches(connection: Connection, matches: Sequence[Match], viewer: Viewer) -> bool:
    """Whether anything matches."""
    return bool(matches) and bool(ranks(connection, matches, viewer, limit=1))


def count_matches(connection: Connection, matches: Sequence[Match], viewer: Viewer) -> tuple[int, bool]:
    """How many adapters match, and whether that is all: counted up to `COUNT_LIMIT`, or known from a counter."""
    if len(matches) == 1 and matches[0].counter and viewer.token_id is None:
        field, value = matches[0].counter
        known = connection.execute(
            select(facet_counts.c.adapters).where(facet_counts.c.field == field, facet_counts.c.value == value)
        ).scalar_one_or_none()
        return int(known or 0), True
    if connection.dialect.name == "sqlite":
        inner = "SELECT 1 FROM listings_text WHERE listings_text MATCH :match LIMIT :limit"
        expression = fts5_expression(matches, viewer)
    else:
        inner = "SELECT 1 FROM listings WHERE tsv @@ CAST(:match AS tsquery) LIMIT :limit"
        expression = tsquery_expression(matches, viewer)
    statement = text(f"SELECT count(*) FROM ({inner}) AS found")
    total = int(connection.execute(statement, {"match": expression, "limit": COUNT_LIMIT + 1}).scalar_one())
    return (total, True) if total <= COUNT_LIMIT else (COUNT_LIMIT, False)


def count_all(connection: Connection, viewer: Viewer) -> int:
    """How many adapters the viewer may see."""
    public = select(func.coalesce(func.sum(facet_counts.c.adapters), 0)).where(facet_counts.c.field == "kind")
    total = int(connection.execute(public).scalar_one())
    if viewer.token_id is not None and viewer.scopes:
        own = select(func.count()).select_from(listings).where(listings.c.private, viewer.sees(listings))
        total += int(connection.execute(own).scalar_one())
    return total


def _fetch(
    connection: Connection,
    sqlite: str,
    postgresql: str,
    matches: Sequence[Match],
    viewer: Viewer,
    start: int,
    limit: int,
) -> list[Any]:
    if connection.dialect.name == "sqlite":
        result = connection.exec_driver_sql(sqlite, (fts5_expression(matches, viewer), start, limit))
    else:
        result = connection.exec_driver_sql(postgresql, (tsquery_expression(matches, viewer), start, limit))
    try:
        assert result.cursor is not None
        return list(result.cursor.fetchall())
    finally:
        result.close()
