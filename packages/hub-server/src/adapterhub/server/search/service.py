"""Answers questions: candidates in order of popularity from the full-text index, re-ranked, with facets and cursors.

Why it is fast with a million adapters: row ids of the full-text index are popularity ranks, so the first matches are the
most popular ones and the database stops there instead of scoring every match. Relevance decides among the first `WINDOW` of
them and those named exactly as asked. The next pages continue in the same window, then in the next one; nothing is shown
twice or left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.catalogue.tables import listing_rows, listings
from adapterhub.server.catalogue.views import AdapterPage, AdapterSummary, Facet
from adapterhub.server.search.candidates import (
    RANK,
    Candidate,
    candidates,
    count_all,
    count_matches,
    has_matches,
    sorted_ranks,
)
from adapterhub.server.search.facets import facets_of, global_facets
from adapterhub.server.search.question import Match, Question, read_cursor, write_cursor
from adapterhub.server.search.ranking import PLACE, Scored, by_downloads, by_relevance, named_as_asked
from adapterhub.server.search.suggestions import suggest

__all__ = ["FEW", "SAMPLE", "WINDOW", "rows_of", "search", "summaries", "summary_of"]

#: Candidates ranked together.
WINDOW = 200
#: In a cursor: before everything in a window.
FIRST = -1e300
#: Candidates whose facets are counted; where there are more matches, the counts are lower bounds.
SAMPLE = 200
#: Up to so many matches are sorted; with more, walking along the order mostly meets the wanted ones sooner.
FEW = 2000
#: So many listings are walked along before all matches are sorted after all.
WALK = 2000


def search(
    connection: Connection, question: Question, viewer: Viewer = ANONYMOUS, *, facets: bool = True
) -> AdapterPage:
    """The adapters that match `question` and may be seen by `viewer`.

    Raises:
        CursorError: `question.cursor` is not from this list.
    """
    matches = question.matches(connection)
    if question.order in ("newest", "name"):
        page = _ordered(connection, question, matches, viewer)
    elif matches:
        page = _windowed(connection, question, matches, viewer, facets)
    else:
        page = _everything(connection, question, viewer)
    if not page.total and question.words:
        page = replace(page, suggestions=suggest(connection, question, viewer, _has_matches))
    if facets and not matches:
        return replace(page, facets=global_facets(connection))
    if facets and not page.facets and page.total:
        rows = candidates(connection, matches, viewer, limit=SAMPLE + 1)
        return replace(page, facets=_facets(question, rows))
    return page


def _facets(question: Question, rows: Sequence[Candidate]) -> tuple[Facet, ...]:
    """The facets of the first `SAMPLE` matches; one more row says that they are not all."""
    return facets_of(rows[:SAMPLE], question, exact=len(rows) <= SAMPLE)


def _everything(connection: Connection, question: Question, viewer: Viewer) -> AdapterPage:
    """The most downloaded adapters of all."""
    position = read_cursor(question.cursor, question.order, (int,))
    start = position[0] if position else 0
    found = connection.execute(
        listing_rows.where(listings.c.rank > start, viewer.sees(listings))
        .order_by(listings.c.rank)
        .limit(question.limit + 1)
    ).all()
    items = found[: question.limit]
    following = write_cursor(question.order, [items[-1].rank]) if len(found) > question.limit else None
    return AdapterPage(tuple(map(summary_of, items)), following, count_all(connection, viewer))


def _windowed(
    connection: Connection, question: Question, matches: Sequence[Match], viewer: Viewer, facets: bool
) -> AdapterPage:
    """Matches by relevance or downloads, one window of popularity after the other.

    A cursor says which ranks the window has and what was shown last, so that publishing meanwhile moves nothing.
    """
    start, end, *shown_last = read_cursor(question.cursor, question.order, (int, int, float, int)) or (0, 0)
    counted = facets and not question.cursor  # the sample begins with the window: one question to the database for both
    window = candidates(connection, matches, viewer, start=start, limit=max(SAMPLE if counted else 0, WINDOW) + 1)
    facets_shown = _facets(question, window) if counted else ()
    total = (len(window), True) if not start and len(window) <= WINDOW else count_matches(connection, matches, viewer)
    inside = [row for row in window[:WINDOW] if not end or row[RANK] <= end]
    last = inside[-1][RANK] if inside else end
    ranked = _ranked(connection, question, matches, viewer, inside, first=start == 0)
    left = [row for row in ranked if not shown_last or PLACE(row) > tuple(shown_last)]
    items, following = left[: question.limit], None
    if len(left) > question.limit:
        following = write_cursor(question.order, [start, end or last, *PLACE(items[-1])])
    elif len(window) > len(inside):
        following = write_cursor(question.order, [last, 0, FIRST, 0])
    return AdapterPage(summaries(connection, [row[1] for row in items]), following, *total, facets_shown)


def _ranked(
    connection: Connection,
    question: Question,
    matches: Sequence[Match],
    viewer: Viewer,
    window: Sequence[Candidate],
    *,
    first: bool,
) -> list[Scored]:
    """A window in order. What is named as asked stands in the first one, wherever it would be by popularity."""
    if question.order == "downloads":
        return by_downloads(window)
    named = named_as_asked(connection, question, matches, viewer)
    known = {row[RANK] for row in named}
    rest = [row for row in window if row[RANK] not in known]
    return by_relevance(question, [*named, *rest] if first else rest, known)


def _ordered(connection: Connection, question: Question, matches: Sequence[Match], viewer: Viewer) -> AdapterPage:
    """Matches newest first or by name."""
    newest = question.order == "newest"
    by = listings.c.updated_at if newest else listings.c.name_key
    position = read_cursor(question.cursor, question.order, (str, int))
    limit = question.limit + 1
    if not matches:
        total, exact = count_all(connection, viewer), True
        rows = listing_rows.where(_after(by, position, newest), viewer.sees(listings))
        found = list(connection.execute(rows.order_by(*_key(listings, by, newest)).limit(limit)))
    else:
        total, exact = count_matches(connection, matches, viewer)
        chosen: list[int] = []
        if connection.dialect.name == "sqlite" and (not exact or total > FEW):
            chosen = _walked(connection, matches, viewer, by, position, newest, limit)
        if len(chosen) < limit:
            chosen = sorted_ranks(connection, matches, viewer, by.name, newest, position, limit)
        found = rows_of(connection, chosen)
    items = found[: question.limit]
    following = None
    if len(found) > question.limit:
        following = write_cursor(question.order, [getattr(items[-1], by.name), items[-1].rank])
    return AdapterPage(tuple(map(summary_of, items)), following, total, exact)


def _walked(
    connection: Connection,
    matches: Sequence[Match],
    viewer: Viewer,
    by: Any,
    position: list[Any] | None,
    newest: bool,
    limit: int,
) -> list[int]:
    """The ranks of the matches among the next `WALK` listings in order; where matches are many, these are enough."""
    near = (
        select(listings.c.rank, listings.c.words)
        .where(_after(by, position, newest), viewer.sees(listings), *_of_model(matches, newest))
        .order_by(*_key(listings, by, newest))
        .limit(WALK)
        .subquery()
    )
    fitting = [_in_words(match, near.c.words) for match in matches]
    # no second ORDER BY: SQLite hands the rows on as they come, and stops when there are enough
    return list(connection.execute(select(near.c.rank).where(*fitting).limit(limit)).scalars())


def _of_model(matches: Sequence[Match], newest: bool) -> list[ColumnElement[bool]]:
    """The condition that an index by name stands on: names begin with their model's, so its adapters may be far down."""
    wanted = [match.counter[1] for match in matches if match.counter is not None and match.counter[0] == "model"]
    return [] if newest else [listings.c.model_name == value for value in wanted]


def _key(table: Any, by: Any, newest: bool) -> tuple[Any, Any]:
    """Newest first or by name; the rank tells equals apart."""
    return (by.desc(), table.c.rank.desc()) if newest else (by, table.c.rank)


def _in_words(match: Match, words: Any) -> ColumnElement[bool]:
    """The condition that a listing's words hold `match`, without the full-text index."""
    apart = literal(" ") + words + " "
    options = [func.instr(apart, f" {word} ") > 0 for word in match.words]
    if match.prefix:
        options.append(func.instr(apart, f" {match.prefix}") > 0)
    return and_(or_(*options))


def _after(by: Any, position: list[Any] | None, newest: bool) -> ColumnElement[bool]:
    """The condition for rows behind a cursor's position."""
    if position is None:
        return true()
    here, there = tuple_(by, listings.c.rank), tuple_(*position)
    return here < there if newest else here > there


def _has_matches(connection: Connection, question: Question, viewer: Viewer) -> bool:
    return has_matches(connection, question.matches(connection), viewer)


def summaries(connection: Connection, chosen: Sequence[int]) -> tuple[AdapterSummary, ...]:
    """The listings of these ranks, in this order."""
    if not chosen:
        return ()
    return tuple(map(summary_of, rows_of(connection, chosen)))


def rows_of(connection: Connection, chosen: Sequence[int]) -> list[Any]:
    """The rows of `listing_rows` of these ranks, in this order."""
    rows = {row.rank: row for row in connection.execute(_ROWS, {"ranks": list(chosen)})} if chosen else {}
    return [rows[rank] for rank in chosen if rank in rows]


_ROWS = listing_rows.where(listings.c.rank.in_(bindparam("ranks", expanding=True)))


def summary_of(row: Any) -> AdapterSummary:
    """A row of `listing_rows` as the value lists show."""
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
