"""The three explore levels: tasks or languages, their data sets or domains, and the adapters of one of those."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select

from adapterhub.server.accounts.viewer import ANONYMOUS
from adapterhub.server.catalogue.names import titled
from adapterhub.server.catalogue.tables import explore_cells, explore_pairs, listing_rows, listings, vocabulary
from adapterhub.server.catalogue.views import AdapterPage, Choice, Facet, SubtaskView, TaskView
from adapterhub.server.search.question import read_cursor, write_cursor
from adapterhub.server.search.service import summary_of
from adapterhub.spec.errors import AdapterNotFoundError
from adapterhub.spec.reference import fold

__all__ = ["CELL_FILTERS", "explore_adapters", "explore_kind", "explore_task", "popular_tasks", "task_names"]

#: query parameter of the third explore level → (column of `explore_cells` and `listings`, title)
CELL_FILTERS: dict[str, tuple[str, str]] = {
    "family": ("family", "Model architecture"),
    "model": ("model_name", "Base model"),
    "method": ("method", "Method"),
    "using": ("using", "Adapter architecture"),
    "reduction_factor": ("reduction_factor", "Reduction factor"),
    "non_linearity": ("non_linearity", "Non-linearity"),
}


_CHOICES = 100


def explore_kind(
    connection: Connection, kind: str, text: str = "", *, subtasks: int | None = None
) -> tuple[TaskView, ...]:
    """First level: every task or language that has adapters, with its data sets or domains, most adapters first.

    Args:
        kind: `task` or `language`.
        text: keeps only what has this in a name, identifier or description.
        subtasks: list at most so many data sets of each task; `more` says how many are left out.
    """
    names = _vocabulary(connection, kind)
    tasks: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(
        select(explore_pairs).where(explore_pairs.c.kind == kind).order_by(explore_pairs.c.adapters.desc())
    ):
        tasks.setdefault(row.task_key, []).append(row)
    views = []
    for key, rows in tasks.items():
        shown = rows if subtasks is None or text.strip() else rows[:subtasks]
        found = [_subtask_view(kind, row, names.get((key, row.subtask_key))) for row in shown]
        view = _task_view(kind, rows[0], names.get((key, "")), found)
        views.append(dataclasses.replace(view, count=sum(row.adapters for row in rows), more=len(rows) - len(shown)))
    if text.strip():
        views = [view for view in (_filtered(view, text) for view in views) if view is not None]
    return tuple(sorted(views, key=lambda view: (-view.count, view.name.lower())))


def explore_task(connection: Connection, kind: str, task: str) -> TaskView:
    """Second level: one task or language with its data sets or domains.

    Raises:
        AdapterNotFoundError: no adapters under it.
    """
    key = fold(task)
    rows = connection.execute(
        select(explore_pairs)
        .where(explore_pairs.c.kind == kind, explore_pairs.c.task_key == key)
        .order_by(explore_pairs.c.adapters.desc(), explore_pairs.c.subtask_key)
    ).all()
    if not rows:
        raise _nothing_under(kind, task)
    names = _vocabulary(connection, kind, key)
    return _task_view(
        kind,
        rows[0],
        names.get((key, "")),
        [_subtask_view(kind, row, names.get((key, row.subtask_key))) for row in rows],
    )


def explore_adapters(
    connection: Connection,
    kind: str,
    task: str,
    subtask: str,
    filters: Mapping[str, str],
    *,
    cursor: str = "",
    limit: int = 24,
) -> tuple[TaskView, SubtaskView, AdapterPage]:
    """Third level: the adapters of one data set or domain, most downloaded first, and what they can be filtered by.

    Each facet counts what its choices would leave, given the other filters; only choices that leave something are listed.

    Args:
        filters: of `CELL_FILTERS`, value each.

    Raises:
        AdapterNotFoundError: no adapters under it.
        CursorError: a cursor from elsewhere.
    """
    task_view = explore_task(connection, kind, task)
    key = fold(subtask)
    subtask_view = next((view for view in task_view.subtasks if fold(view.id) == key), None)
    if subtask_view is None:
        raise _nothing_under(kind, f"{task}/{subtask}")
    wanted = {name: value for name, value in filters.items() if value and name in CELL_FILTERS}
    place = {"kind": kind, "task_key": fold(task), "subtask_key": key}
    cells = _cells(connection, place)
    facets, total = _cell_facets(cells, wanted)
    position = read_cursor(cursor, "explore", (int,))
    rows = connection.execute(
        listing_rows.where(
            *(listings.c[name] == value for name, value in place.items()),
            *(func.coalesce(listings.c[CELL_FILTERS[name][0]], "") == value for name, value in wanted.items()),
            ANONYMOUS.sees(listings),
            listings.c.rank > (position[0] if position else 0),
        )
        .order_by(listings.c.rank)
        .limit(limit + 1)
    ).all()
    items = rows[:limit]
    following = write_cursor("explore", [items[-1].rank]) if len(rows) > limit else None
    return task_view, subtask_view, AdapterPage(tuple(map(summary_of, items)), following, total, True, facets)


def _cells(connection: Connection, place: Mapping[str, str]) -> list[tuple[str, str, str, int]]:
    """The cells of one pair as plain tuples: base model, its family, variant (the other filters, joined), adapters."""
    result = connection.execute(_PLACE_CELLS, place)
    try:
        assert result.cursor is not None
        return list(result.cursor.fetchall())
    finally:
        result.close()


_OF_MODEL, _OF_VARIANT = ("model", "family"), ("method", "using", "reduction_factor", "non_linearity")


_JOINT = "\x1f"


_PLACE_CELLS = select(
    explore_cells.c.model_name,
    explore_cells.c.family,
    explore_cells.c.method
    + _JOINT
    + explore_cells.c.using
    + _JOINT
    + explore_cells.c.reduction_factor
    + _JOINT
    + explore_cells.c.non_linearity,
    explore_cells.c.adapters,
).where(*(explore_cells.c[name] == bindparam(name) for name in ("kind", "task_key", "subtask_key")))


def _cell_facets(
    cells: Sequence[tuple[str, str, str, int]], wanted: Mapping[str, str]
) -> tuple[tuple[Facet, ...], int]:
    """The facets over the cells of one pair and how many adapters all filters together leave.

    A full pair has thousands of cells but few models and few variants, so what is known of those is worked out once each.
    """
    counts: dict[str, dict[str, int]] = {name: {} for name in CELL_FILTERS}
    models: dict[tuple[str, str], int] = {}
    variants: dict[str, int] = {}
    model_verdicts: dict[tuple[str, str], list[str]] = {}
    variant_verdicts: dict[str, list[str]] = {}
    for model, family, variant, here in cells:
        both = (model, family)
        against = model_verdicts.get(both)
        if against is None:
            against = model_verdicts[both] = _against(_OF_MODEL, both, wanted)
        also = variant_verdicts.get(variant)
        if also is None:
            also = variant_verdicts[variant] = _against(_OF_VARIANT, variant.split(_JOINT), wanted)
        if not against and not also:
            models[both] = models.get(both, 0) + here
            variants[variant] = variants.get(variant, 0) + here
        elif len(against) + len(also) == 1:  # only its own filter speaks against it: the choice is open
            name = (against or also)[0]
            value = both[_OF_MODEL.index(name)] if against else variant.split(_JOINT)[_OF_VARIANT.index(name)]
            counts[name][value] = counts[name].get(value, 0) + here
    for names, found in (
        (_OF_MODEL, models.items()),
        (_OF_VARIANT, ((v.split(_JOINT), n) for v, n in variants.items())),
    ):
        for values, here in found:
            for name, value in zip(names, values, strict=True):
                counts[name][value] = counts[name].get(value, 0) + here
    facets = (_cell_facet(name, counts[name], wanted.get(name)) for name in CELL_FILTERS)
    return tuple(facet for facet in facets if facet is not None), sum(models.values())


def _against(names: Sequence[str], values: Sequence[str], wanted: Mapping[str, str]) -> list[str]:
    """The filters that these values do not meet."""
    return [name for name, value in zip(names, values, strict=True) if name in wanted and wanted[name] != value]


def _cell_facet(name: str, counts: Mapping[str, int], want: str | None) -> Facet | None:
    found = [(value, count) for value, count in counts.items() if value]
    if not found or (len(found) == 1 and not want and name != "model"):
        return None
    found.sort(key=lambda pair: _numeric(pair[0]) if name == "reduction_factor" else (-pair[1], pair[0]))
    choices = tuple(Choice(value, count, "", value == want) for value, count in found[:_CHOICES])
    return Facet(name, CELL_FILTERS[name][1], choices, True, max(0, len(found) - _CHOICES))


def _numeric(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def popular_tasks(connection: Connection, limit: int) -> tuple[TaskView, ...]:
    """The tasks with most adapters, and the language with most."""
    found: list[TaskView] = []
    for kind, few in (("task", limit - 1), ("language", 1)):
        total = func.sum(explore_pairs.c.adapters)
        rows = connection.execute(
            select(explore_pairs.c.task_key, func.min(explore_pairs.c.task).label("task"), total.label("adapters"))
            .where(explore_pairs.c.kind == kind)
            .group_by(explore_pairs.c.task_key)
            .order_by(total.desc(), explore_pairs.c.task_key)
            .limit(few)
        ).all()
        for row in rows:
            name = connection.execute(
                select(vocabulary.c.name).where(
                    vocabulary.c.kind == kind, vocabulary.c.task_key == row.task_key, vocabulary.c.subtask_key == ""
                )
            ).scalar_one_or_none()
            found.append(TaskView(kind, row.task, name or titled(kind, row.task), "", int(row.adapters)))
    return tuple(found)


def task_names(connection: Connection, kind: str, task: str, subtask: str) -> tuple[str, str]:
    """How a task and a data set are called."""
    names = _vocabulary(connection, kind, fold(task))
    task_row, subtask_row = names.get((fold(task), "")), names.get((fold(task), fold(subtask)))
    return (
        task_row.name if task_row else titled(kind, task),
        subtask_row.name if subtask_row else titled(kind, task, subtask),
    )


def _vocabulary(connection: Connection, kind: str, task_key: str | None = None) -> dict[tuple[str, str], Row[Any]]:
    statement = select(vocabulary).where(vocabulary.c.kind == kind)
    if task_key is not None:
        statement = statement.where(vocabulary.c.task_key == task_key)
    return {(row.task_key, row.subtask_key): row for row in connection.execute(statement)}


def _task_view(kind: str, row: Row[Any], name: Row[Any] | None, subtasks: list[SubtaskView]) -> TaskView:
    return TaskView(
        kind=kind,
        id=row.task,
        name=name.name if name else titled(kind, row.task),
        description=name.description if name else "",
        count=sum(subtask.count for subtask in subtasks),
        subtasks=tuple(subtasks),
    )


def _subtask_view(kind: str, row: Row[Any], name: Row[Any] | None) -> SubtaskView:
    view = SubtaskView(
        kind,
        row.task,
        row.subtask,
        name.name if name else titled(kind, row.task, row.subtask),
        count=row.adapters,
        models=row.models,
    )
    if name is None:
        return view
    return dataclasses.replace(
        view, description=name.description, url=name.url, citation=name.citation, language=name.language, metric=name.metric,
        dataset=name.dataset,
    )  # fmt: skip


def _filtered(view: TaskView, text: str) -> TaskView | None:
    """The task with only the data sets that have `text`; all of them if the task itself has it; None if nothing has."""
    needle = text.strip().lower()
    if needle in view.name.lower() or needle in view.id.lower():
        return view
    kept = tuple(
        item for item in view.subtasks if needle in f"{item.name} {item.task}/{item.id} {item.description}".lower()
    )
    return dataclasses.replace(view, subtasks=kept, count=sum(item.count for item in kept)) if kept else None


def _nothing_under(kind: str, what: str) -> AdapterNotFoundError:
    return AdapterNotFoundError(
        f"No adapters are published under {kind} {what!r}.", hint=f"/explore/{kind} lists what there is."
    )
