"""Puts candidates in order of relevance: how well their names fit the words, and how often they were downloaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import TypeAlias

from sqlalchemy import Connection, bindparam, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import listings
from adapterhub.server.search.candidates import DOWNLOADS, RANK, Candidate, candidates
from adapterhub.server.search.question import Match, Question
from adapterhub.server.search.words import facet_word, title_of
from adapterhub.spec.reference import fold

__all__ = ["PLACE", "Scored", "by_downloads", "by_relevance", "named_as_asked"]

#: a row with what it is sorted by: a number (smaller is better), then its rank
Scored: TypeAlias = tuple[float, int, Candidate]
PLACE = itemgetter(0, 1)


#: So many adapters whose name, task, data set, model or publisher is exactly what was asked are looked at first.
_NAMED = 120


def named_as_asked(
    connection: Connection, question: Question, matches: Sequence[Match], viewer: Viewer
) -> list[Candidate]:
    """The most popular matches for which the whole text is the name of the adapter, its task, data set, model or publisher.

    They may be far down by popularity alone, so they are asked for by themselves.
    """
    phrase = _phrase(question)
    if not phrase:
        return []
    text = question.text.strip()
    # A name that is exactly the text holds every word of it: only the filters have to be met besides.
    filters = [match for match in matches if match.counter is not None and match.counter[0] != "word"]
    exact = [facet_word(field, phrase) for field in ("task", "subtask", "namespace", "title")]
    exact += [facet_word("model", text), facet_word("model", text.lower())]
    found = candidates(connection, [*filters, Match(tuple(dict.fromkeys(exact)))], viewer, limit=_NAMED)
    task, slash, rest = text.partition("/")
    if slash:
        subtask, at, namespace = rest.partition("@")
        parts = [("task", task), ("subtask", subtask), *([("namespace", namespace)] if at else [])]
        whole = [Match((facet_word(field, fold(value)),)) for field, value in parts]
        found += candidates(connection, [*filters, *whole], viewer, limit=_NAMED)
    found += _of_name(connection, phrase, matches, viewer)
    return list({row[RANK]: row for row in found}.values())


_NAMED_SO = (
    select(listings.c.rank, listings.c.words)
    .where(listings.c.name_key == bindparam("name"))
    .order_by(listings.c.rank)
    .limit(20)
)


def _of_name(connection: Connection, phrase: str, matches: Sequence[Match], viewer: Viewer) -> list[Candidate]:
    """The matching adapters whose folded name is `phrase`."""
    rows = connection.execute(_NAMED_SO.where(viewer.sees(listings)), {"name": phrase}).all()
    found: list[Candidate] = []
    for row in rows:
        if all(match.found_in(f" {row.words} ") for match in matches):
            found += candidates(connection, matches, viewer, start=row.rank - 1, limit=1)
    return found


def by_relevance(question: Question, rows: Sequence[Candidate], named: Collection[int] = ()) -> list[Scored]:
    """The rows, best first; equal ones stay in order of popularity. `named` are ranks from `named_as_asked`."""
    words = question.words
    phrase = _phrase(question)
    scored = [(_score(row, words, phrase) + (18.0 if row[RANK] in named else 0.0), row[RANK], row) for row in rows]
    return sorted(((-score if phrase else 0.0, rank, row) for score, rank, row in scored), key=PLACE)


def by_downloads(rows: Sequence[Candidate]) -> list[Scored]:
    """The rows, most downloaded first."""
    return sorted(((-float(row[DOWNLOADS]), row[RANK], row) for row in rows), key=PLACE)


def _phrase(question: Question) -> str:
    """The whole text as a folded name."""
    return title_of(question.text)


def _score(row: Candidate, words: Sequence[str], phrase: str) -> float:
    (_, name, namespace, _, task, subtask, written_model, _, method, using, _, _, downloads) = row
    model = written_model.lower()
    score: float = 0.7 * downloads.bit_length()
    if name == phrase:
        score += 60
    elif name.startswith(phrase):
        score += 6
    pair = f"{task}-{subtask}"
    if phrase in (subtask, task, namespace, pair):
        score += 30
    elif len(phrase) == len(model) and phrase == fold(model).replace("/", "-"):
        score += 20
    place, whole = f"-{pair}-", f"-{name}-"
    for word in words:
        if word in place:
            score += 8 if f"-{word}-" in place else 4
        if word in whole:
            score += 4 if f"-{word}-" in whole else 2
        if word in model:
            score += 3
        if word in (using, method):
            score += 3
    return score
