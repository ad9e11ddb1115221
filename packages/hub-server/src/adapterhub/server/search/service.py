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
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    literal,
    or_,
    text,
    true,
    tuple_,
)

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.catalogue.tables import listing_rows, listings
from adapterhub.server.catalogue.views import AdapterPage, AdapterSummary, Facet
from adapterhub.server.search.candidates import (
    DOWNLOADS,
    RANK,
    Candidate,
    candidates,
    count_all,
    count_matches,
    has_matches,
    ranks,
)
from adapterhub.server.search.facets import facets_of, global_facets
from adapterhub.server.search.question import Match, Question, read_cursor, write_cursor
from adapterhub.server.search.ranking import by_relevance, named_as_asked
from adapterhub.server.search.suggestions import suggest

__all__ = ["FEW", "SAMPLE", "WINDOW", "search", "summaries", "summary_of"]

#: Candidates ranked together.
WINDOW = 300
#: Candidates whose facets are counted; where there are more matches, the counts are lower bounds.
SAMPLE = 600
#: Up to so many matches are fetched and sorted; with more, walking along the order meets the wanted ones sooner.
FEW = 4000


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
    """Matches by relevance or downloads, one window of popularity after the other."""
    position = read_cursor(question.cursor, question.order, (int, int))
    start, offset = position or (0, 0)
    counted = facets and start == 0  # the sample then begins with the window: one question to the database for both
    window = candidates(connection, matches, viewer, start=start, limit=max(SAMPLE if counted else 0, WINDOW) + 1)
    shown = _facets(question, window) if counted else ()
    more = len(window) > WINDOW
    window = window[:WINDOW]
    last = window[-1][RANK] if window else 0
    ranked: list[Candidate]
    if question.order == "relevance":
        named = named_as_asked(connection, question, matches, viewer)  # they all stand in the first window
        known = {row[RANK] for row in named}
        rest = [row for row in window if row[RANK] not in known]
        ranked = by_relevance(question, [*named, *rest] if start == 0 else rest, known)
    else:
        ranked = sorted(window, key=lambda row: (-row[DOWNLOADS], row[RANK]))
    following = None
    if offset + question.limit < len(ranked):
        following = write_cursor(question.order, [start, offset + question.limit])
    elif more:
        following = write_cursor(question.order, [last, 0])
    chosen = [row[RANK] for row in ranked[offset : offset + question.limit]]
    total, exact = (len(window), True) if start == 0 and not more else count_matches(connection, matches, viewer)
    return AdapterPage(summaries(connection, chosen), following, total, exact, shown)


def _ordered(connection: Connection, question: Question, matches: Sequence[Match], viewer: Viewer) -> AdapterPage:
    """Matches newest first or by name."""
    newest = question.order == "newest"
    by = listings.c.updated_at if newest else listings.c.name_key
    key = (by.desc(), listings.c.rank.desc()) if newest else (by, listings.c.rank)
    after = _after(by, read_cursor(question.cursor, question.order, (str, int)), newest)
    limit = question.limit + 1
    ordered = listing_rows.where(after).order_by(*key).limit(limit)
    if not matches:
        total, exact = count_all(connection, viewer), True
        found = list(connection.execute(ordered.where(viewer.sees(listings))))
    else:
        few = ranks(connection, matches, viewer, limit=FEW + 1)
        if len(few) <= FEW:
            total, exact = len(few), True
            found = list(connection.execute(ordered.where(_among(few, connection.dialect.name)))) if few else []
        else:
            total, exact = count_matches(connection, matches, viewer)
            conditions = [_in_words(match, connection.dialect.name) for match in matches]
            found = list(connection.execute(ordered.where(viewer.sees(listings), *conditions)))
    items = found[: question.limit]
    following = None
    if len(found) > question.limit:
        following = write_cursor(question.order, [getattr(items[-1], by.name), items[-1].rank])
    return AdapterPage(tuple(map(summary_of, items)), following, total, exact)


def _among(chosen: Sequence[int], dialect: str) -> ColumnElement[bool]:
    """The condition that a listing is one of these, with one parameter for all of them."""
    if dialect == "sqlite":
        values = text("SELECT value FROM json_each(:chosen)").bindparams(chosen=json.dumps(list(chosen)))
        return listings.c.rank.in_(values)
    return listings.c.rank == func.any(bindparam("chosen", list(chosen), ARRAY(BigInteger)))


def _in_words(match: Match, dialect: str) -> ColumnElement[bool]:
    """The condition that a listing's words hold `match`, without the full-text index."""
    position = func.instr if dialect == "sqlite" else func.strpos
    words = literal(" ") + listings.c.words + " "
    options = [position(words, f" {word} ") > 0 for word in match.words]
    if match.prefix:
        options.append(position(words, f" {match.prefix}") > 0)
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
    rows = {row.rank: row for row in connection.execute(listing_rows.where(listings.c.rank.in_(chosen)))}
    return tuple(summary_of(rows[rank]) for rank in chosen if rank in rows)


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
