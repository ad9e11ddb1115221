"""Takes candidates from the full-text index: the most popular matches first, and only as many as asked for.

Rows come as plain tuples straight from the driver, since a question may look at a thousand of them; `RANK`, `NAME`, … are
the positions in such a tuple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, func, select, text, tuple_

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import facet_counts, listings
from adapterhub.server.search.question import Match, fts5_expression, tsquery_expression

__all__ = [
    "COUNT_LIMIT",
    "Candidate",
    "candidates",
    "count_all",
    "count_matches",
    "fitting_ranks",
    "has_matches",
    "sorted_ranks",
]

Candidate: TypeAlias = tuple[Any, ...]

#: Matches of several words are counted up to here; of many words, which are slow to bring together, up to the second.
COUNT_LIMIT, COUNT_LIMIT_OF_MANY = 2000, 250
_MANY = 4
#: A word is common with more adapters than the first; for several such ones, so many popular adapters are looked at one by one.
_COMMON, _WALK = 3000, 8000

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
_LISTINGS, _NEAR = "listings l", "(SELECT * FROM listings WHERE rank > %s ORDER BY rank LIMIT %s) l"
_FITTING = "FROM {source} WHERE l.tsv @@ CAST(%s AS tsquery) AND l.rank > %s ORDER BY l.rank LIMIT %s"
_POSTGRESQL = f"SELECT {_LISTED} {_FITTING}"
_POSTGRESQL_RANKS = f"SELECT l.rank {_FITTING}"

_COUNTER = select(facet_counts.c.adapters).where(
    facet_counts.c.field == bindparam("field"), facet_counts.c.value == bindparam("value")
)
_COUNTERS = select(facet_counts.c.adapters).where(
    tuple_(facet_counts.c.field, facet_counts.c.value).in_(bindparam("pairs", expanding=True))
)
_PUBLIC = select(func.coalesce(func.sum(facet_counts.c.adapters), 0)).where(facet_counts.c.field == "kind")


def candidates(
    connection: Connection, matches: Sequence[Match], viewer: Viewer, *, start: int = 0, limit: int
) -> list[Candidate]:
    """The first `limit` matches behind rank `start` that the viewer may see, most popular first."""
    return _fetch(connection, _SQLITE, _POSTGRESQL, matches, viewer, start, limit)


def has_matches(connection: Connection, matches: Sequence[Match], viewer: Viewer) -> bool:
    """Whether anything matches."""
    return bool(matches) and bool(_fetch(connection, _SQLITE_RANKS, _POSTGRESQL_RANKS, matches, viewer, 0, 1))


def sorted_ranks(
    connection: Connection,
    matches: Sequence[Match],
    viewer: Viewer,
    by: str,
    descending: bool,
    position: Sequence[Any] | None,
    limit: int,
) -> list[int]:
    """The ranks of the first `limit` matches in the order of a column of `listings`, behind `position` (its value, rank)."""
    sqlite = connection.dialect.name == "sqlite"
    expression = fts5_expression(matches, viewer) if sqlite else tsquery_expression(matches, viewer)
    mark = "?" if sqlite else "%s"
    direction = "DESC" if descending else "ASC"
    behind = f"AND (l.{by}, l.rank) {'<' if descending else '>'} ({mark}, {mark})" if position else ""
    if sqlite:
        light = "INDEXED BY ix_listings_light" if by in _COLUMNS else ""
        source = f"listings_text t CROSS JOIN listings l {light} ON l.rank = t.rowid WHERE t.listings_text MATCH ?"
    else:
        source = "listings l WHERE l.tsv @@ CAST(%s AS tsquery)"
    statement = f"SELECT l.rank FROM {source} {behind} ORDER BY l.{by} {direction}, l.rank {direction} LIMIT {mark}"
    return [row[0] for row in connection.exec_driver_sql(statement, (expression, *(position or ()), limit))]


def fitting_ranks(
    connection: Connection,
    matches: Sequence[Match],
    viewer: Viewer,
    values: Mapping[str, str],
    *,
    start: int = 0,
    limit: int,
) -> list[int]:
    """The ranks of the first `limit` matches behind rank `start` whose columns have these values, most popular first."""
    if connection.dialect.name == "sqlite":
        expression, mark = fts5_expression(matches, viewer), "?"
        found, rank = (
            "listings_text t CROSS JOIN listings l ON l.rank = t.rowid WHERE t.listings_text MATCH ?",
            "t.rowid",
        )
    else:
        expression, mark = tsquery_expression(matches, viewer), "%s"
        found, rank = "listings l WHERE l.tsv @@ CAST(%s AS tsquery)", "l.rank"
    quote = connection.dialect.identifier_preparer.quote
    fitting = "".join(f" AND l.{quote(name)} = {mark}" for name in values)
    statement = f"SELECT l.rank FROM {found} AND {rank} > {mark}{fitting} ORDER BY {rank} LIMIT {mark}"
    return [row[0] for row in connection.exec_driver_sql(statement, (expression, start, *values.values(), limit))]


def count_matches(connection: Connection, matches: Sequence[Match], viewer: Viewer) -> tuple[int, bool]:
    """How many adapters match, and whether that is all: counted up to the limit, or known from a counter."""
    limit = COUNT_LIMIT if len(matches) < _MANY else COUNT_LIMIT_OF_MANY
    if len(matches) == 1 and matches[0].counter and viewer.token_id is None:
        known = connection.execute(_COUNTER, dict(zip(("field", "value"), matches[0].counter, strict=True)))
        return int(known.scalar_one_or_none() or 0), True
    if connection.dialect.name == "sqlite":
        inner = "SELECT 1 FROM listings_text WHERE listings_text MATCH :match LIMIT :limit"
        expression = fts5_expression(matches, viewer)
    else:
        inner = "SELECT 1 FROM listings WHERE tsv @@ CAST(:match AS tsquery) LIMIT :limit"
        expression = tsquery_expression(matches, viewer)
    statement = text(f"SELECT count(*) FROM ({inner}) AS found")
    total = int(connection.execute(statement, {"match": expression, "limit": limit + 1}).scalar_one())
    return (total, True) if total <= limit else (limit, False)


def count_all(connection: Connection, viewer: Viewer) -> int:
    """How many adapters the viewer may see."""
    total = int(connection.execute(_PUBLIC).scalar_one())
    if viewer.sees_private:
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
        return _all(connection, sqlite, (fts5_expression(matches, viewer), start, limit))
    parameters = (tsquery_expression(matches, viewer), start, limit)
    whole = postgresql.format(source=_LISTINGS)
    if not _all_common(connection, matches):
        return _all(connection, whole, parameters)
    # PostgreSQL takes words for independent of one another: two common ones that never meet would make it look through
    # everything in order of popularity. So it may look at the most popular adapters first, and then has to ask the index.
    found = _all(connection, postgresql.format(source=_NEAR), (start, _WALK, *parameters))
    if len(found) >= limit:
        return found
    connection.exec_driver_sql("SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = off")
    try:
        return _all(connection, whole, parameters)
    finally:
        connection.exec_driver_sql("SET LOCAL enable_indexscan = on; SET LOCAL enable_seqscan = on")


def _all_common(connection: Connection, matches: Sequence[Match]) -> bool:
    """Whether these are several words of which each alone is found in many adapters."""
    if len(matches) < 2 or any(match.counter is None for match in matches):
        return False
    wanted = [match.counter for match in matches if match.counter]
    rows = connection.execute(_COUNTERS, {"pairs": wanted}).all()
    return len(rows) == len(set(wanted)) and min(row.adapters for row in rows) > _COMMON


def _all(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
    result = connection.exec_driver_sql(statement, parameters)
    try:
        assert result.cursor is not None
        return list(result.cursor.fetchall())
    finally:
        result.close()
