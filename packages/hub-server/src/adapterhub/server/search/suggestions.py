"""What to try instead when nothing matches: corrected words, or fewer of them; only questions that do have matches.

Whatever is asked, only so much is tried: a question without an answer must not cost more than one with.
"""

from __future__ import annotations

import difflib
import json
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations, islice, product
from typing import Any

from sqlalchemy import Connection, bindparam, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import facet_counts
from adapterhub.server.search.question import Question
from adapterhub.server.storage.tables import hub

__all__ = ["suggest"]

_LIMIT = 5
_ALPHABET = string.ascii_lowercase + string.digits
#: questions tried; unknown words corrected, and of which length; words of a question that are varied all at once
_TRIES, _CORRECTED, _CORRECTED_LENGTH, _VARIED = 12, 3, 24, 4
#: the most common names of tasks, models, … that are compared with a word
_NAMES = 1500

_KNOWN = select(facet_counts.c.value, facet_counts.c.adapters).where(
    facet_counts.c.field == "word", facet_counts.c.value.in_(bindparam("words", expanding=True))
)
_COMMON_NAMES = (
    select(facet_counts.c.value)
    .where(facet_counts.c.field.in_(("task", "subtask", "family", "using", "namespace", "model")))
    .order_by(facet_counts.c.adapters.desc(), facet_counts.c.value)
    .limit(_NAMES)
)
_SERIAL = select(hub.c.number).where(hub.c.key == "serial")


def suggest(
    connection: Connection,
    question: Question,
    viewer: Viewer,
    has_matches: Callable[[Connection, Question, Viewer], bool],
) -> tuple[str, ...]:
    """Up to five other texts for `question`, best first."""
    words = question.words
    asked = " ".join(words)
    counts = {row.value: int(row.adapters) for row in connection.execute(_KNOWN, {"words": words})}
    texts = (" ".join(some) for some in _alternatives(connection, words, counts))
    found: list[str] = []
    for text in islice((text for text in dict.fromkeys(texts) if text and text != asked), _TRIES):
        if has_matches(connection, replace(question, text=text + " ", cursor=""), viewer):
            found.append(text)
            if len(found) == _LIMIT:
                break
    return tuple(found)


def _alternatives(connection: Connection, words: list[str], counts: dict[str, int]) -> Iterable[Sequence[str]]:
    """What could be asked instead: unknown words corrected, then one word less, then the words that tell most."""
    unknown = [word for word in words if word not in counts and len(word) <= _CORRECTED_LENGTH][:_CORRECTED]
    corrected = {word: _corrections(connection, word) for word in unknown}
    alternatives = [[*corrected.get(word, ()), word][:3] for word in words]
    if len(words) <= _VARIED:
        yield from product(*alternatives)
        yield from (words[:i] + words[i + 1 :] for i in range(len(words)))
    else:
        yield [options[0] for options in alternatives]
    # those that fewest adapters have come first: they say most about what is wanted, and are found soonest
    telling = sorted(dict.fromkeys(options[0] for options in alternatives), key=lambda word: counts.get(word, 0))
    telling = [word for word in telling if word in counts or word not in words]
    if len(words) > _VARIED:
        yield from (sorted(some, key=words.index) for some in combinations([w for w in telling if w in counts][:3], 2))
    if len(words) > 1:
        yield from ([word] for word in telling)


def _corrections(connection: Connection, word: str) -> list[str]:
    """Indexed words close to `word`: one letter off, then near ones among the names of tasks, models and languages."""
    rows = _indexed(connection, sorted(_one_edit(word)))
    found = [value for value, _ in sorted(rows, key=lambda row: (-row[1], row[0]))]
    if len(found) < 3 and len(word) > 3:
        # whoever mistypes a word mostly gets its length about right, and its first or last letter
        near = [
            piece
            for piece in _pieces(connection)
            if abs(len(piece) - len(word)) <= 3 and (piece[0] == word[0] or piece[-1] == word[-1])
        ]
        found += difflib.get_close_matches(word, near, n=3, cutoff=0.72)
    return list(dict.fromkeys(found))[:5]


def _indexed(connection: Connection, words: list[str]) -> list[tuple[str, int]]:
    """Which of these words adapters have, and how many."""
    if connection.dialect.name == "sqlite":
        among, given = "(SELECT value FROM json_each(?))", (json.dumps(words),)
        statement = f"SELECT value, adapters FROM facet_counts WHERE field = 'word' AND value IN {among}"
        rows = connection.exec_driver_sql(statement, given)
    else:
        statement = "SELECT value, adapters FROM facet_counts WHERE field = 'word' AND value = ANY(%s)"
        rows = connection.exec_driver_sql(statement, (words,))
    return [(row[0], row[1]) for row in rows]


_kept_pieces: dict[str, tuple[int, list[str]]] = {}


def _pieces(connection: Connection) -> list[str]:
    """The words in the most common names, as they are in the hub's present state."""
    hub_url, serial = str(connection.engine.url), int(connection.execute(_SERIAL).scalar_one())
    kept = _kept_pieces.get(hub_url)
    if kept is not None and kept[0] == serial:
        return kept[1]
    names: Any = connection.execute(_COMMON_NAMES).scalars()
    pieces = dict.fromkeys(
        piece for name in names for piece in name.lower().replace("/", "-").split("-") if len(piece) > 2
    )
    if len(_kept_pieces) > 8:
        _kept_pieces.clear()
    _kept_pieces[hub_url] = serial, list(pieces)
    return list(pieces)


def _one_edit(word: str) -> set[str]:
    """Every string one deletion, swap, replacement or insertion away."""
    splits = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    deletes = {left + right[1:] for left, right in splits if right}
    swaps = {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    replaces = {left + letter + right[1:] for left, right in splits if right for letter in _ALPHABET}
    inserts = {left + letter + right for left, right in splits for letter in _ALPHABET}
    return {edited for edited in deletes | swaps | replaces | inserts if edited and edited != word}
