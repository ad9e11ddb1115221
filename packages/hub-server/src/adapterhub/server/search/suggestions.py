"""What to try instead when nothing matches: corrected words, or fewer of them; only questions that do have matches."""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

from sqlalchemy import Connection, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.catalogue.tables import facet_counts
from adapterhub.server.search.question import Question

__all__ = ["suggest"]

_LIMIT = 5
_ALPHABET = string.ascii_lowercase + string.digits


def suggest(
    connection: Connection,
    question: Question,
    viewer: Viewer,
    has_matches: Callable[[Connection, Question, Viewer], bool],
) -> tuple[str, ...]:
    """Up to five other texts for `question`, best first."""
    words = question.words
    candidates: list[str] = []
    alternatives = [[word] if _known(connection, word) else [*_corrections(connection, word), word] for word in words]
    for combination in list(product(*(options[:3] for options in alternatives)))[:12]:
        candidates.append(" ".join(combination))
    if len(words) > 1:
        candidates += [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    asked = " ".join(words)
    found: list[str] = []
    for text in dict.fromkeys(candidates):
        if text != asked and text and has_matches(connection, replace(question, text=text + " ", cursor=""), viewer):
            found.append(text)
            if len(found) == _LIMIT:
                break
    return tuple(found)


def _known(connection: Connection, word: str) -> bool:
    statement = select(facet_counts.c.value).where(facet_counts.c.field == "word", facet_counts.c.value == word)
    return connection.execute(statement).first() is not None


def _corrections(connection: Connection, word: str) -> list[str]:
    """Indexed words close to `word`: one letter off, then near ones among the names of tasks, models and languages."""
    near = sorted(_one_edit(word))
    rows: list[Any] = []
    for start in range(0, len(near), 500):
        rows += connection.execute(
            select(facet_counts.c.value, facet_counts.c.adapters).where(
                facet_counts.c.field == "word", facet_counts.c.value.in_(near[start : start + 500])
            )
        ).all()
    found = [row.value for row in sorted(rows, key=lambda row: (-row.adapters, row.value))]
    if len(found) < 3 and len(word) > 3:
        names = connection.execute(
            select(facet_counts.c.value)
            .where(facet_counts.c.field.in_(("task", "subtask", "family", "using", "namespace", "model")))
            .order_by(facet_counts.c.adapters.desc())
            .limit(1500)
        ).scalars()
        pieces = dict.fromkeys(
            piece for name in names for piece in name.lower().replace("/", "-").split("-") if len(piece) > 2
        )
        found += difflib.get_close_matches(word, list(pieces), n=3, cutoff=0.72)
    return list(dict.fromkeys(found))[:5]


def _one_edit(word: str) -> set[str]:
    """Every string one deletion, swap, replacement or insertion away."""
    splits = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    deletes = {left + right[1:] for left, right in splits if right}
    swaps = {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    replaces = {left + letter + right[1:] for left, right in splits if right for letter in _ALPHABET}
    inserts = {left + letter + right for left, right in splits for letter in _ALPHABET}
    return {edited for edited in deletes | swaps | replaces | inserts if edited and edited != word}
