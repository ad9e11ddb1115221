"""Counts of what an answer can be narrowed by: from candidates, or from the counters where nothing was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from adapterhub.server.catalogue.tables import facet_counts
from adapterhub.server.catalogue.views import Choice, Facet
from adapterhub.server.search.candidates import (
    FAMILY,
    KIND,
    LANGUAGES,
    LICENSE,
    METHOD,
    MODEL,
    NAMESPACE,
    SUBTASK,
    TASK,
    USING,
    Candidate,
)
from adapterhub.server.search.question import FACETS, Question
from adapterhub.spec.reference import fold

__all__ = ["facets_of", "global_facets"]

#: More values of one facet are not listed.
CHOICES = 40

_TITLES = {
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
_PLACE = {
    "kind": KIND, "task": TASK, "subtask": SUBTASK, "model": MODEL, "family": FAMILY, "method": METHOD, "using": USING,
    "language": LANGUAGES, "license": LICENSE, "namespace": NAMESPACE,
}  # fmt: skip


_MOST = (
    select(facet_counts.c.value, facet_counts.c.adapters)
    .where(facet_counts.c.field == bindparam("field"))
    .order_by(facet_counts.c.adapters.desc(), facet_counts.c.value)
    .limit(CHOICES + 1)
)


def facets_of(rows: Sequence[Candidate], question: Question, *, exact: bool) -> tuple[Facet, ...]:
    """Counts over `rows`; `exact` says whether they are all there is."""
    found = []
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * 13
    for name in FACETS:
        counts: Counter[str] = Counter(columns[_PLACE[name]])
        if name == "language":
            counts = _single_tags(counts)
        counts.pop("", None)
        counts.pop(None, None)  # type: ignore[call-overload]
        facet = _facet(name, counts.most_common(CHOICES), question.filters.get(name, ""), exact, len(counts) - CHOICES)
        if facet is not None:
            found.append(facet)
    return tuple(found)


def global_facets(connection: Connection) -> tuple[Facet, ...]:
    """Counts over everything public."""
    found = []
    for name in FACETS:
        rows = connection.execute(_MOST, {"field": name}).all()
        facet = _facet(name, [(row.value, row.adapters) for row in rows[:CHOICES]], "", True, len(rows) - CHOICES)
        if facet is not None:
            found.append(facet)
    return tuple(found)


def _single_tags(counts: Counter[str]) -> Counter[str]:
    """Counts of single language tags from those of lists of tags."""
    single: Counter[str] = Counter()
    for tags, count in counts.items():
        for tag in (tags or "").split():
            single[tag] += count
    return single


def _facet(name: str, counts: Sequence[tuple[str, int]], selected: str, exact: bool, more: int) -> Facet | None:
    if not counts or (len(counts) == 1 and not selected and name == "kind"):
        return None
    wanted = (selected, fold(selected)) if selected else ()
    choices = tuple(Choice(value, count, "", value in wanted) for value, count in counts)
    return Facet(name, _TITLES[name], choices, exact, max(0, more))
