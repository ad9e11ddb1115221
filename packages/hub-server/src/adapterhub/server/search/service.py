"""Answers questions: candidates in order of popularity from the full-text index, re-ranked, with facets and cursors.

Why it is fast with a million adapters: row ids of the full-text index are popularity ranks, so the first `WINDOW` matches
are the most popular ones and the database stops there instead of scoring every match. Within that window relevance decides.
The next pages continue in the same window, then in the next one; nothing is shown twice or left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, column, func, select, table, text, true, tuple_

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.catalogue.tables import facet_counts, listing_rows, listings
from adapterhub.server.catalogue.views import AdapterPage, AdapterSummary, Choice, Facet
from adapterhub.server.search.question import (
    FILTERS,
    Match,
    Question,
    fts5_expression,
    read_cursor,
    tsquery_expression,
    write_cursor,
)
from adapterhub.server.search.suggestions import suggest

__all__ = ["COUNT_LIMIT", "WINDOW", "search", "summaries", "summary_of"]

#: Candidates looked at together.
WINDOW = 2000
#: Matches are counted up to here.
COUNT_LIMIT = 10_000
#: More values of one facet are not listed.
CHOICES = 40

FACET_TITLES = {
    "kind": "Kind",
    "task": "Task or language",
    "subtask": "Data set or domain",
    "model": "Base model",
    "family": "Model architecture",
    "method": "Method",
    "using": "Adapter architecture",
    "language": "Language",
    "license": "Licence",
    "namespace": "Publisher",
}

_LIGHT = (
    "rank", "name_key", "namespace_key", "kind", "task_key", "subtask_key", "model_name", "family", "method", "using",
    "languages", "license", "downloads",
)  # fmt: skip
_COLUMN = {
    "kind": "kind", "task": "task_key", "subtask": "subtask_key", "model": "model_name", "family": "family",
    "method": "method", "using": "using", "license": "license", "namespace": "namespace_key",
}  # fmt: skip


def search(
    connection: Connection, question: Question, viewer: Viewer = ANONYMOUS, *, facets: bool = True
) -> AdapterPage:
    """The adapters that match `question` and may be seen by `viewer`.

    Raises:
        CursorError: `question.cursor` is not from this list.
    """
    matches = question.matches(connection)
    if question.order in ("newest", "name"):
        return _ordered(connection, question, matches, viewer, facets)
    if not matches:
        return _everything(connection, question, viewer, facets)
    return _windowed(connection, question, matches, viewer, facets)


def _everything(connection: Connection, question: Question, viewer: Viewer, facets: bool) -> AdapterPage:
    position = read_cursor(question.cursor, question.order, (int,))
    start = position[0] if position else 0
    found = connection.execute(
        listing_rows.where(listings.c.rank > start, viewer.sees(listings))
        .order_by(listings.c.rank)
        .limit(question.limit + 1)
    ).all()
    items = found[: question.limit]
    following = write_cursor(question.order, [items[-1].rank]) if len(found) > question.limit else None
    return AdapterPage(
        items=tuple(summary_of(row) for row in items),
        next=following,
        total=_count_all(connection, viewer),
        facets=_global_facets(connection) if facets else (),
    )


def _windowed(
    connection: Connection, question: Question, matches: list[Match], viewer: Viewer, facets: bool
) -> AdapterPage:
    position = read_cursor(question.cursor, question.order, (int, int))
    start, offset = position or (0, 0)
    window = _candidates(connection, matches, viewer, start, WINDOW + 1)
    more = len(window) > WINDOW
    window = window[:WINDOW]
    last = window[-1].rank if window else 0
    ranked: Sequence[Row[Any]] = window
    if question.order == "relevance":
        ranked = _by_relevance(connection, question, matches, viewer, window, first=start == 0)
    else:
        ranked = sorted(window, key=lambda row: (-row.downloads, row.rank))
    chosen = ranked[offset : offset + question.limit]
    following = None
    if offset + question.limit < len(ranked):
        following = write_cursor(question.order, [start, offset + question.limit])
    elif more:
        following = write_cursor(question.order, [last, 0])
    total, exact = (len(ranked), True) if start == 0 and not more else _count(connection, matches, viewer)
    suggestions = suggest(connection, question, viewer, _has_matches) if not total and question.words else ()
    return AdapterPage(
        items=summaries(connection, [row.rank for row in chosen]),
        next=following,
        total=total,
        total_exact=exact,
        facets=_facets(ranked, question, exact=not more and start == 0) if facets else (),
        suggestions=suggestions,
    )


def _ordered(
    connection: Connection, question: Question, matches: list[Match], viewer: Viewer, facets: bool
) -> AdapterPage:
    """Newest first or by name. Few matches are fetched and sorted; many are met soon enough by walking along the order."""
    newest = question.order == "newest"
    by = listings.c.updated_at if newest else listings.c.name_key
    position = read_cursor(question.cursor, question.order, (str, int))
    key = (by.desc(), listings.c.rank.desc()) if newest else (by, listings.c.rank)
    after = _after(by, position, newest)
    total, exact = _count(connection, matches, viewer) if matches else (_count_all(connection, viewer), True)
    limit = question.limit + 1
    found: list[Any] = []
    light: Sequence[Row[Any]] = []
    if not matches:
        found = list(connection.execute(listing_rows.where(after, viewer.sees(listings)).order_by(*key).limit(limit)))
    elif exact:
        light = _candidates(connection, matches, viewer, 0, COUNT_LIMIT + 1)
        ranks = [row.rank for row in light]
        for chunk in range(0, len(ranks), 5000):
            found += connection.execute(
                listing_rows.where(listings.c.rank.in_(ranks[chunk : chunk + 5000]), after).order_by(*key).limit(limit)
            ).all()
        found.sort(key=lambda row: (getattr(row, by.name), row.rank), reverse=newest)
        found = found[:limit]
    else:
        for row in connection.execution_options(yield_per=256).execute(
            listing_rows.where(after, viewer.sees(listings)).order_by(*key)
        ):
            words = f" {row.words} "
            if all(match.found_in(words) for match in matches):
                found.append(row)
                if len(found) == limit:
                    break
        if facets:
            light = _candidates(connection, matches, viewer, 0, WINDOW)
    items = found[: question.limit]
    following = None
    if len(found) > question.limit:
        following = write_cursor(question.order, [getattr(items[-1], by.name), items[-1].rank])
    suggestions = suggest(connection, question, viewer, _has_matches) if not total and question.words else ()
    shown: tuple[Facet, ...] = ()
    if facets:
        shown = _facets(light, question, exact=exact) if matches else _global_facets(connection)
    return AdapterPage(tuple(summary_of(row) for row in items), following, total, exact, shown, suggestions)


def _after(by: Any, position: list[Any] | None, newest: bool) -> ColumnElement[bool]:
    """The condition for rows behind a cursor's position."""
    if position is None:
        return true()
    here, there = tuple_(by, listings.c.rank), tuple_(*position)
    return here < there if newest else here > there


_fts = table("listings_text", column("rowid"), column("listings_text"))
_light = [listings.c[name] for name in _LIGHT]
_in_sqlite = (
    select(*_light)
    .select_from(_fts.join(listings, listings.c.rank == _fts.c.rowid))
    .where(_fts.c.listings_text.op("MATCH")(bindparam("match")), _fts.c.rowid > bindparam("start"))
    .order_by(_fts.c.rowid)
    .limit(bindparam("limit"))
)
_in_postgresql = (
    select(*_light)
    .where(text("listings.tsv @@ CAST(:match AS tsquery)"), listings.c.rank > bindparam("start"))
    .order_by(listings.c.rank)
    .limit(bindparam("limit"))
)


def _candidates(
    connection: Connection, matches: list[Match], viewer: Viewer, start: int, limit: int
) -> Sequence[Row[Any]]:
    """The light columns of the first `limit` matches behind rank `start`, most popular first."""
    sqlite = connection.dialect.name == "sqlite"
    expression = fts5_expression(matches, viewer) if sqlite else tsquery_expression(matches, viewer)
    values = {"match": expression, "start": start, "limit": limit}
    return connection.execute(_in_sqlite if sqlite else _in_postgresql, values).all()


def _has_matches(connection: Connection, question: Question, viewer: Viewer) -> bool:
    matches = question.matches(connection)
    return bool(matches) and bool(_candidates(connection, matches, viewer, 0, 1))


def _count(connection: Connection, matches: list[Match], viewer: Viewer) -> tuple[int, bool]:
    """How many adapters match, counted up to `COUNT_LIMIT`, and whether that is all."""
    if connection.dialect.name == "sqlite":
        inner = "SELECT 1 FROM listings_text WHERE listings_text MATCH :match LIMIT :limit"
        expression = fts5_expression(matches, viewer)
    else:
        inner = "SELECT 1 FROM listings WHERE tsv @@ CAST(:match AS tsquery) LIMIT :limit"
        expression = tsquery_expression(matches, viewer)
    statement = text(f"SELECT count(*) FROM ({inner}) AS found")
    total = int(connection.execute(statement, {"match": expression, "limit": COUNT_LIMIT + 1}).scalar_one())
    return (total, True) if total <= COUNT_LIMIT else (COUNT_LIMIT, False)


def _count_all(connection: Connection, viewer: Viewer) -> int:
    public = select(func.coalesce(func.sum(facet_counts.c.adapters), 0)).where(facet_counts.c.field == "kind")
    total = int(connection.execute(public).scalar_one())
    if viewer.token_id is not None and viewer.scopes:
        own = select(func.count()).select_from(listings).where(listings.c.private, viewer.sees(listings))
        total += int(connection.execute(own).scalar_one())
    return total


def _by_relevance(
    connection: Connection,
    question: Question,
    matches: list[Match],
    viewer: Viewer,
    window: Sequence[Row[Any]],
    *,
    first: bool,
) -> list[Row[Any]]:
    """The window by how well names match, then by popularity.

    Adapters named exactly as asked come first even if thousands are more popular: they are fetched beside the first window.
    """
    words = question.words
    phrase = "-".join(words)
    if not phrase:
        return list(window)
    exact = _named(connection, phrase, matches, viewer)
    known = {row.rank for row in exact}
    rest = [row for row in window if row.rank not in known]
    scored = sorted(((-_score(row, words, phrase), row.rank, position) for position, row in enumerate(rest)))
    ordered = [rest[position] for _score_, _rank, position in scored]
    return [*exact, *ordered] if first else ordered


def _named(connection: Connection, phrase: str, matches: list[Match], viewer: Viewer) -> list[Any]:
    """Up to 20 matching adapters whose folded name is `phrase`, most popular first."""
    rows = connection.execute(
        select(*_light, listings.c.words)
        .where(listings.c.name_key == phrase, viewer.sees(listings))
        .order_by(listings.c.rank)
        .limit(20)
    ).all()
    return [row for row in rows if all(match.found_in(f" {row.words} ") for match in matches)]


def _score(row: Row[Any], words: list[str], phrase: str) -> float:
    """Relevance of one candidate: where the words stand, and how often it was downloaded."""
    score = 0.7 * row.downloads.bit_length()
    task, subtask, name, model = row.task_key, row.subtask_key, row.name_key, row.model_name.lower()
    if phrase in (subtask, task, f"{task}-{subtask}", row.namespace_key):
        score += 30
    if phrase == model.replace("/", "-").replace("_", "-").replace(".", "-"):
        score += 20
    if name.startswith(phrase):
        score += 6
    place = f"-{task}-{subtask}-"
    whole = f"-{name}-"
    for word in words:
        if f"-{word}-" in place:
            score += 8
        elif word in place:
            score += 4
        if f"-{word}-" in whole:
            score += 4
        elif word in whole:
            score += 2
        if word in model:
            score += 3
        if word == row.using or word == row.method:
            score += 3
    return score


def _facets(rows: Iterable[Row[Any]], question: Question, *, exact: bool) -> tuple[Facet, ...]:
    """Counts of each facet's values among the candidates."""
    rows = list(rows)
    found = []
    for name in FILTERS:
        if name == "language":
            counts: Counter[str] = Counter(tag for row in rows if row.languages for tag in row.languages.split())
        else:
            counts = Counter(map(_getter(name), rows))
            counts.pop(None, None)  # type: ignore[call-overload]
            counts.pop("", None)
        selected = question.filters.get(name, "")
        facet = _facet(name, counts.most_common(CHOICES), selected, exact=exact, more=max(0, len(counts) - CHOICES))
        if facet is not None:
            found.append(facet)
    return tuple(found)


def _getter(name: str) -> Any:
    from operator import itemgetter

    return itemgetter(_LIGHT.index(_COLUMN[name]))


def _global_facets(connection: Connection) -> tuple[Facet, ...]:
    """Counts over everything public, from the counters."""
    found = []
    for name in FILTERS:
        rows = connection.execute(
            select(facet_counts.c.value, facet_counts.c.adapters)
            .where(facet_counts.c.field == name)
            .order_by(facet_counts.c.adapters.desc(), facet_counts.c.value)
            .limit(CHOICES)
        ).all()
        facet = _facet(name, [(row.value, row.adapters) for row in rows], "", exact=True, more=0)
        if facet is not None:
            found.append(facet)
    return tuple(found)


def _facet(name: str, counts: Sequence[tuple[str, int]], selected: str, *, exact: bool, more: int) -> Facet | None:
    wanted = selected.lower().replace("_", "-").replace(".", "-")
    choices = tuple(Choice(value, count, "", bool(selected) and value in (selected, wanted)) for value, count in counts)
    if not choices or (len(choices) == 1 and not selected and name == "kind"):
        return None
    return Facet(name, FACET_TITLES[name], choices, exact, more)


def summaries(connection: Connection, ranks: Sequence[int]) -> tuple[AdapterSummary, ...]:
    """The listings of these ranks, in this order."""
    if not ranks:
        return ()
    rows = {row.rank: row for row in connection.execute(listing_rows.where(listings.c.rank.in_(ranks)))}
    return tuple(summary_of(rows[rank]) for rank in ranks if rank in rows)


def summary_of(row: Any) -> AdapterSummary:
    """A row of `listings` as the value lists show."""
    config: Mapping[str, Any] = json.loads(row.config) if row.config else {}
    return AdapterSummary(
        namespace=row.namespace,
        name=row.name,
        version=row.version,
        task=row.task,
        subtask=row.subtask,
        type=row.type,
        model_name=row.model_name,
        family=row.family,
        method=row.method,
        using=row.using,
        config_id=row.config_id,
        adapter_config=config,
        digest=row.digest,
        license=row.license,
        languages=tuple(row.languages.split()),
        description=row.description,
        size=row.size,
        hidden_size=row.hidden_size,
        downloads=row.downloads,
        versions=row.versions,
        created_at=row.created_at,
        updated_at=row.updated_at,
        yanked=row.yanked,
        status=row.status,
        sha1_checksum=row.sha1,
        private=row.private,
    )
