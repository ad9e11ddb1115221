"""A question to the search: its words, filters and order, and what that means to each database and to plain text."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import facet_counts
from adapterhub.server.search.words import facet_word, query_words
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.reference import fold

__all__ = ["FACETS", "FILTERS", "PRIVATE_WORD", "SORTS", "CursorError", "Match", "Question", "organisation_word"]

#: what a list can be filtered by, with counts of what each choice leaves; the values of the folded ones are compared folded
FACETS = ("kind", "task", "subtask", "model", "family", "method", "using", "language", "license", "namespace")
FILTERS = (*FACETS, "type")
_FOLDED = {"task", "subtask", "namespace", "kind", "language"}

SORTS = {"relevance": "Most relevant", "downloads": "Most downloaded", "newest": "Newest", "name": "By name"}

#: listings of private organisations carry it, so that a question can leave them out
PRIVATE_WORD = facet_word("visibility", "private")

#: A prefix of five letters or more is replaced by the words it starts, the common ones first.
_MAX_EXPANSIONS = 16
#: Below this many expected matches the database may merge all words of a prefix itself.
_FEW = 3000


def organisation_word(organisation_id: int) -> str:
    """The word that private listings of an organisation carry besides `PRIVATE_WORD`."""
    return facet_word("organisation", str(organisation_id))


class CursorError(AdapterHubError, ValueError):
    """A cursor that this hub did not make, or made for another question."""

    code = "InvalidCursor"
    status = 400


@dataclass(frozen=True, slots=True)
class Match:
    """One word that has to be found: any of `words` exactly, or, if `prefix` is set, any word that starts so.

    `counter` is the row of `facet_counts` that knows how many adapters match, if there is one.
    """

    words: tuple[str, ...]
    prefix: str = ""
    counter: tuple[str, str] | None = None

    def found_in(self, text: str) -> bool:
        """Whether `text`, words with a blank before and behind each, holds it."""
        if self.prefix and f" {self.prefix}" in text:
            return True
        return any(f" {word} " in text for word in self.words)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Args:
        text: free text; empty for a plain list.
        filters: of `FILTERS`, value each.
        sort: of `SORTS`; empty: relevance where there is text, else downloads.
        limit: items on a page.
        cursor: where to go on, from an earlier answer.
    """

    text: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)
    sort: str = ""
    limit: int = 20
    cursor: str = ""

    @property
    def words(self) -> list[str]:
        return query_words(self.text)

    @property
    def order(self) -> str:
        return self.sort if self.sort in SORTS else ("relevance" if self.words else "downloads")

    def matches(self, connection: Connection) -> list[Match]:
        """Everything an adapter has to match: the filters' words and the text's, the last of which may be unfinished."""
        found = []
        for name, given in self.filters.items():
            if given and name in FILTERS:
                value = fold(given) if name in _FOLDED else given
                if name == "license":
                    value = connection.execute(_LICENSE, {"given": given}).scalar() or value
                found.append(Match((facet_word(name, value),), counter=(name, value)))
        words = self.words
        unfinished = bool(words) and self.text[-1:].isalnum()
        for position, word in enumerate(words):
            if unfinished and position == len(words) - 1:
                if len(word) > 1:
                    found.append(_unfinished(connection, word))
                elif position == 0 or word.isdigit():
                    found.append(Match((word,), counter=("word", word)))
                # else: the first letter of a word to come says nothing yet
            else:
                found.append(Match((word,), counter=("word", word)))
        return found


#: licences are published in any case, as SPDX allows; what is spelt exactly so comes first, and of many only the common ones
#: are looked through
_LICENSES = (
    select(facet_counts.c.value)
    .where(facet_counts.c.field == "license")
    .order_by(facet_counts.c.adapters.desc(), facet_counts.c.value)
    .limit(1000)
    .subquery()
)
_LICENSE = (
    select(_LICENSES.c.value)
    .where(func.lower(_LICENSES.c.value) == func.lower(bindparam("given")))
    .order_by(case((_LICENSES.c.value == bindparam("given"), 0), else_=1), _LICENSES.c.value)
    .limit(1)
)


def _unfinished(connection: Connection, word: str) -> Match:
    if len(word) <= 4:  # the full-text index keeps prefixes of these lengths
        return Match((), word)
    inner = (
        select(facet_counts.c.value, facet_counts.c.adapters)
        .where(facet_counts.c.field == "word", facet_counts.c.value >= word, facet_counts.c.value < word + "\U0010ffff")
        .limit(2000)
    )
    rows = connection.execute(inner).all()
    if len(rows) < 2000 and sum(row.adapters for row in rows) <= _FEW:
        return Match((), word)
    common = [row.value for row in sorted(rows, key=lambda row: (-row.adapters, row.value))[:_MAX_EXPANSIONS]]
    return Match(tuple(dict.fromkeys([word, *common])))


def fts5_expression(matches: Sequence[Match], viewer: Viewer) -> str:
    """The question in the language of SQLite's FTS5. Words are letters and digits only and stand in quotes."""
    parts = []
    for match in matches:
        options = [f'"{word}"' for word in match.words]
        if match.prefix:
            options.append(f'"{match.prefix}" *')
        parts.append(options[0] if len(options) == 1 else f"({' OR '.join(options)})")
    expression = " AND ".join(parts)
    hidden = _hidden(viewer)
    if hidden is None:
        return expression
    private, own = hidden
    return f'({expression}) NOT "{private}"' if own is None else f'({expression}) NOT ("{private}" NOT "{own}")'


def tsquery_expression(matches: Sequence[Match], viewer: Viewer) -> str:
    """The question as the text of a PostgreSQL tsquery."""
    parts = []
    for match in matches:
        options = [f"'{word}'" for word in match.words]
        if match.prefix:
            options.append(f"'{match.prefix}':*")
        parts.append(f"({' | '.join(options)})")
    expression = " & ".join(parts)
    hidden = _hidden(viewer)
    if hidden is None:
        return expression
    private, own = hidden
    return f"{expression} & !'{private}'" if own is None else f"{expression} & (!'{private}' | '{own}')"


def _hidden(viewer: Viewer) -> tuple[str, str | None] | None:
    """The word of what the viewer may not see, and the word that makes an exception; None for one who sees all."""
    if not viewer.sees_private:
        return PRIVATE_WORD, None
    if viewer.organisation_id is None:
        return None
    return PRIVATE_WORD, organisation_word(viewer.organisation_id)


def write_cursor(order: str, values: list[Any]) -> str:
    """An opaque position in a list."""
    document = json.dumps([order, *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def read_cursor(cursor: str, order: str, kinds: tuple[type, ...]) -> list[Any] | None:
    """The position a cursor stands for; None for an empty one.

    Raises:
        CursorError: not one of ours, or of a list in another order.
    """
    if not cursor:
        return None
    try:
        document = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        found, *values = document
        if found != order or len(values) != len(kinds):
            raise ValueError
        for value, kind in zip(values, kinds, strict=True):
            if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**62):
                raise ValueError
            if isinstance(value, str) and b"\0" in value.encode():  # nor half a surrogate pair
                raise ValueError
    except (ValueError, TypeError, binascii.Error, UnicodeDecodeError, RecursionError):
        raise CursorError("The cursor does not belong to this list.", hint="Start again without `cursor`.") from None
    return list(values)
