"""The three explore levels: tasks or languages, their data sets or domains, and the adapters of one of those."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, bindparam, func, select

from adapterhub.server.accounts.viewer import ANONYMOUS
from adapterhub.server.catalogue.names import titled
from adapterhub.server.catalogue.tables import explore_cells, explore_pairs, listing_rows, listings, vocabulary
from adapterhub.server.catalogue.views import AdapterPage, Choice, Facet, SubtaskView, TaskView
from adapterhub.server.search.candidates import fitting_ranks
from adapterhub.server.search.question import Match, read_cursor, write_cursor
from adapterhub.server.search.service import rows_of, summary_of
from adapterhub.server.search.words import facet_word
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
#: so many base models may be named in one question to the search
_FEW_VALUES = 60


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
        select(explore_pairs)
        .where(explore_pairs.c.kind == kind)
        .order_by(explore_pairs.c.adapters.desc(), explore_pairs.c.task_key, explore_pairs.c.subtask_key)
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
    models, variants = _groups(connection, place, wanted)
    facets, total = _cell_facets(models, variants, wanted)
    position = read_cursor(cursor, "explore", (int,))
    behind = position[0] if position else 0
    if not total:
        rows: Sequence[Row[Any]] = ()
    elif wanted:
        rows = _filtered_rows(connection, place, models, variants, wanted, behind, limit + 1)
    else:
        rows = connection.execute(_PLACE_ROWS, {**place, "behind": behind, "limit": limit + 1}).all()
    items = rows[:limit]
    following = write_cursor("explore", [items[-1].rank]) if len(rows) > limit else None
    return task_view, subtask_view, AdapterPage(tuple(map(summary_of, items)), following, total, True, facets)


#: filters by what describes the base model, and by what describes the adapter: the columns of two groupings of the cells
_OF_MODEL = ("model", "family")
_OF_VARIANT = ("method", "using", "reduction_factor", "non_linearity")
#: values of such filters, and how many adapters have them
_Group: TypeAlias = tuple[tuple[str, ...], int]


def _groups(
    connection: Connection, place: Mapping[str, str], wanted: Mapping[str, str]
) -> tuple[list[_Group], list[_Group]]:
    """The base models among the adapters of a pair that meet the filters on variants, and the variants among those that
    meet the filters on models. What a filter's own choices would leave can be told from these."""
    of_model = tuple(name for name in _OF_MODEL if name in wanted)
    of_variant = tuple(name for name in _OF_VARIANT if name in wanted)
    parameters = {**place, **{f"wanted_{name}": value for name, value in wanted.items()}}
    return (
        _grouped(connection, _OF_MODEL, of_variant, parameters),
        _grouped(connection, _OF_VARIANT, of_model, parameters),
    )


def _grouped(
    connection: Connection, names: tuple[str, ...], conditions: tuple[str, ...], parameters: Mapping[str, str]
) -> list[_Group]:
    result = connection.execute(_grouping(names, conditions), parameters)
    try:
        assert result.cursor is not None
        return [(tuple(row[:-1]), int(row[-1])) for row in result.cursor.fetchall()]
    finally:
        result.close()


@lru_cache(maxsize=128)
def _grouping(names: tuple[str, ...], conditions: tuple[str, ...]) -> Any:
    columns = [explore_cells.c[CELL_FILTERS[name][0]] for name in names]
    return (
        select(*columns, func.sum(explore_cells.c.adapters))
        .where(
            *(explore_cells.c[name] == bindparam(name) for name in ("kind", "task_key", "subtask_key")),
            *(explore_cells.c[CELL_FILTERS[name][0]] == bindparam(f"wanted_{name}") for name in conditions),
        )
        .group_by(*columns)
    )


_PLACE_ROWS = (
    listing_rows.where(
        *(listings.c[name] == bindparam(name) for name in ("kind", "task_key", "subtask_key")),
        ANONYMOUS.sees(listings),
        listings.c.rank > bindparam("behind"),
    )
    .order_by(listings.c.rank)
    .limit(bindparam("limit"))
)


def _filtered_rows(
    connection: Connection,
    place: Mapping[str, str],
    models: Sequence[_Group],
    variants: Sequence[_Group],
    wanted: Mapping[str, str],
    behind: int,
    limit: int,
) -> Sequence[Row[Any]]:
    """The most popular adapters of a pair that meet the filters: found by the search's index, however rare they are.

    What the search does not know (hyper-parameters) is turned into the base models and variants that come with it.
    """
    named = {"kind": place["kind"], "task": place["task_key"], "subtask": place["subtask_key"]}
    unknown = {name: wanted[name] for name in ("reduction_factor", "non_linearity") if name in wanted}
    named |= {name: value for name, value in wanted.items() if name not in unknown}
    matches = [Match((facet_word(name, value),)) for name, value in named.items()]
    if unknown:
        fitting = {
            "model": {values[0] for values, _ in models if not _against(_OF_MODEL, values, wanted)},
            "using": {values[1] for values, _ in variants if not _against(_OF_VARIANT, values, wanted)},
        }
        matches += [
            Match(tuple(facet_word(name, value) for value in sorted(values)))
            for name, values in fitting.items()
            if name not in wanted and "" not in values and 0 < len(values) <= _FEW_VALUES
        ]
    return rows_of(connection, fitting_ranks(connection, matches, ANONYMOUS, unknown, start=behind, limit=limit))


def _cell_facets(
    models: Sequence[_Group], variants: Sequence[_Group], wanted: Mapping[str, str]
) -> tuple[tuple[Facet, ...], int]:
    """The facets of one pair, each under the other filters, and how many adapters all filters together leave."""
    counts: dict[str, dict[str, int]] = {name: {} for name in CELL_FILTERS}
    total = 0
    for names, groups in ((_OF_MODEL, models), (_OF_VARIANT, variants)):
        wanted_here = any(name in wanted for name in names)
        for values, here in groups:
            against = _against(names, values, wanted) if wanted_here else []
            if names is _OF_MODEL and not against:
                total += here
            for name, value in zip(names, values, strict=True):
                if not against or against == [name]:  # its own filter leaves the choice open
                    counts[name][value] = counts[name].get(value, 0) + here
    facets = (_cell_facet(name, counts[name], wanted.get(name)) for name in CELL_FILTERS)
    return tuple(facet for facet in facets if facet is not None), total


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
