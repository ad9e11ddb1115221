"""Reads the catalogue: the three explore levels, one adapter with its versions, a publisher, and the hub in figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, bindparam, func, select

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.catalogue.listings import shown_version
from adapterhub.server.catalogue.names import titled
from adapterhub.server.catalogue.tables import (
    architectures,
    explore_cells,
    explore_pairs,
    facet_counts,
    imported_records,
    listing_rows,
    listings,
    vocabulary,
)
from adapterhub.server.catalogue.views import (
    AdapterDetail,
    AdapterPage,
    Choice,
    Facet,
    FileView,
    HubCounts,
    MetricView,
    SubtaskView,
    TaskView,
    TensorView,
    VersionView,
)
from adapterhub.server.search.question import read_cursor, write_cursor
from adapterhub.server.search.service import summary_of
from adapterhub.server.storage.tables import adapters, manifests, organisations, tokens, versions
from adapterhub.spec.errors import AdapterNotFoundError, VersionNotFoundError
from adapterhub.spec.reference import fold

__all__ = [
    "CELL_FILTERS",
    "adapter_detail",
    "explore_adapters",
    "explore_kind",
    "explore_task",
    "hub_counts",
    "namespace_adapters",
]

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


def adapter_detail(
    connection: Connection, namespace: str, name: str, version: str | None = None, viewer: Viewer = ANONYMOUS
) -> AdapterDetail:
    """One version of an adapter, by default the one that stands for it, with everything known about it.

    Raises:
        AdapterNotFoundError: there is none that the viewer may see.
        VersionNotFoundError: not in this version; `candidates` lists those there are.
    """
    listing = connection.execute(
        listing_rows.where(
            listings.c.namespace_key == fold(namespace), listings.c.name_key == fold(name), viewer.sees(listings)
        )
    ).first()
    if listing is None:
        raise AdapterNotFoundError(
            f"There is no adapter @{namespace}/{name}.",
            hint="Search for it, or check the spelling.",
            suggestions=_similar(connection, namespace, name),
        )
    owner = connection.execute(select(adapters).where(adapters.c.id == listing.adapter_id)).one()
    published = connection.execute(
        select(versions, tokens.c.origin.label("token_origin"))
        .outerjoin(tokens, tokens.c.id == versions.c.token_id)
        .where(versions.c.adapter_id == owner.id, versions.c.state == "published")
        .order_by(versions.c.serial)
    ).all()
    default = shown_version(published, owner.default_version)
    chosen = default if version is None else next((row for row in published if row.version == version), None)
    if chosen is None:
        raise VersionNotFoundError(
            f"@{listing.namespace}/{listing.name} has no version {version!r}.",
            hint="Versions are compared exactly.",
            candidates=[row.version for row in reversed(published)],
        )
    summary = dataclasses.replace(summary_of(listing), description=" ".join(owner.description.split()))
    found = connection.execute(
        select(imported_records.c.document).where(imported_records.c.adapter_id == owner.id)
    ).first()
    record = json.loads(found.document) | {"source": "an imported catalogue"} if found else {}
    views = tuple(_version_view(row, row.version == default.version, record) for row in reversed(published))
    manifest = None
    if chosen.digest:
        body = connection.execute(
            select(manifests.c.body).where(manifests.c.digest == chosen.digest)
        ).scalar_one_or_none()
        manifest = json.loads(body) if body is not None else None
    return _with_background(connection, _detail(summary, owner, chosen, views, manifest, record))


def _with_background(connection: Connection, detail: AdapterDetail) -> AdapterDetail:
    """What the vocabulary knows about the adapter's architecture and data set."""
    summary = detail.summary
    known = connection.execute(select(architectures).where(architectures.c.name == (summary.using or ""))).first()
    data = connection.execute(
        select(vocabulary.c.citation).where(
            vocabulary.c.kind == summary.kind,
            vocabulary.c.task_key == fold(summary.task),
            vocabulary.c.subtask_key == fold(summary.subtask),
        )
    ).scalar_one_or_none()
    cited = (("the architecture", known.citation if known else ""), ("the data set", data or ""))
    return dataclasses.replace(
        detail,
        architecture=known.description if known else "",
        more_citations=tuple((what, text) for what, text in cited if text.strip() and text.strip() != detail.citation),
    )


def _detail(
    summary: Any, owner: Row[Any], chosen: Row[Any], views: tuple[VersionView, ...], manifest: Mapping[str, Any] | None,
    record: Mapping[str, Any],
) -> AdapterDetail:  # fmt: skip
    line = json.loads(chosen.line)
    shown = next(view for view in views if view.version == chosen.version)
    known = manifest or {}
    summary = dataclasses.replace(
        summary, version=chosen.version, digest=chosen.digest, size=chosen.size, yanked=bool(chosen.yanked),
        config_id=chosen.config_id, status=line.get("status") or "available",
    )  # fmt: skip
    files: tuple[FileView, ...]
    if manifest:
        files = tuple(
            FileView(file["path"], file["size"], file["digest"], file["media_type"], f"/v1/blobs/{file['digest']}")
            for file in known["files"]
        )
    else:
        files = tuple(
            FileView(
                file.get("path") or PurePosixPath(urlsplit(str(file.get("url") or "")).path).name or "archive.zip",
                file.get("size"), f"sha256:{file['sha256']}" if file.get("sha256") else None,
            )
            for file in line.get("files") or ()
        )  # fmt: skip
    by = {"oidc": "a trusted publisher", "cli": "a token", "api": "a token"}.get(chosen.token_origin or "", "")
    return AdapterDetail(
        summary=summary,
        version=shown,
        versions=views,
        files=files,
        tensors=tuple(
            TensorView(tensor["file"], tensor["name"], tensor["dtype"], tuple(tensor["shape"]))
            for tensor in known.get("tensors") or ()
        ),
        metrics=tuple(
            MetricView(metric["name"], metric["value"], metric.get("dataset"), metric.get("split"))
            for metric in known.get("metrics") or ()
        ),
        config=known.get("config") or line.get("config") or {},
        head=known.get("head"),
        has_head=bool(known.get("head") or record.get("prediction_head")),
        base_model=known.get("base_model") or {"name": summary.model_name, "hidden_size": summary.hidden_size},
        library=known.get("library") or {},
        authors=tuple(known.get("authors") or record.get("authors") or ()),
        citation=(owner.citation or known.get("citation") or "").strip(),
        datasets=tuple(known.get("datasets") or ()),
        dependencies=tuple(_dependency(item) for item in known.get("dependencies") or record.get("dependencies") or ()),
        card=owner.card,
        published_by=f"@{summary.namespace}, with {by}" if by else record.get("source", f"@{summary.namespace}"),
        links=_links(record),
        legacy_config_id=line.get("legacy_config_id"),
        manifest=manifest,
    )


def _dependency(item: Mapping[str, Any]) -> dict[str, Any]:
    """A dependency with, where it is an address, the adapter's page."""
    reference = str(item.get("reference") or item.get("key") or "")
    found = {**item, "reference": reference}
    if reference.startswith("@") and "/" in reference:
        found["adapter_id"] = reference.split("@sha256:")[0].split(":")[0]
    return found


def _links(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Where an imported record says more can be read."""
    found = []
    if record.get("url"):
        found.append(("Website", str(record["url"])))
    if record.get("github"):
        found.append(("GitHub", f"https://github.com/{record['github']}"))
    return tuple(found)


def _version_view(row: Row[Any], is_default: bool, record: Mapping[str, Any]) -> VersionView:
    line = json.loads(row.line)
    note = str((record.get("notes") or {}).get(row.version) or "")
    score = (record.get("scores") or {}).get(row.version)
    if score is not None:
        note = f"{note} Score {score:g}".strip()
    return VersionView(
        version=row.version,
        digest=row.digest,
        created_at=line.get("created_at") or (row.published_at or row.created_at if row.digest else ""),
        size=row.size,
        yanked=bool(row.yanked),
        yanked_reason=row.yanked_reason or None,
        status=line.get("status") or "available",
        is_default=is_default,
        note=note,
    )


def _similar(connection: Connection, namespace: str, name: str) -> list[str]:
    """Addresses of public adapters of the same name elsewhere, or whose name begins alike in this namespace."""
    key = fold(name)
    rows = connection.execute(
        select(listings.c.namespace, listings.c.name)
        .where(listings.c.name_key == key, ANONYMOUS.sees(listings))
        .order_by(listings.c.rank)
        .limit(5)
    ).all()
    if len(rows) < 5:
        rows = [
            *rows,
            *connection.execute(
                select(listings.c.namespace, listings.c.name)
                .where(
                    listings.c.namespace_key == fold(namespace),
                    listings.c.name_key >= key[:3],
                    listings.c.name_key < key[:3] + "\U0010ffff",
                    ANONYMOUS.sees(listings),
                )
                .limit(5 - len(rows))
            ).all(),
        ]
    return list(dict.fromkeys(f"@{row.namespace}/{row.name}" for row in rows))


def namespace_adapters(
    connection: Connection, name: str, viewer: Viewer = ANONYMOUS, *, cursor: str = "", limit: int = 24
) -> tuple[Row[Any], AdapterPage]:
    """A publisher and its adapters by name.

    Raises:
        AdapterNotFoundError: there is no such publisher, or none to be seen.
    """
    organisation = connection.execute(select(organisations).where(organisations.c.key == fold(name))).first()
    if organisation is None or (organisation.private and not viewer.can_read(organisation.id)):
        raise AdapterNotFoundError(
            f"There is no publisher @{name}.", hint="Search for an adapter, or check the spelling."
        )
    position = read_cursor(cursor, "namespace", (str, int))
    here = [listings.c.namespace_key == organisation.key, viewer.sees(listings)]
    total = _count_of_namespace(connection, organisation, viewer)
    if position:
        here.append(listings.c.name_key > position[0])
    rows = connection.execute(listing_rows.where(*here).order_by(listings.c.name_key).limit(limit + 1)).all()
    items = rows[:limit]
    following = write_cursor("namespace", [items[-1].name_key, items[-1].rank]) if len(rows) > limit else None
    return organisation, AdapterPage(tuple(map(summary_of, items)), following, total)


def _count_of_namespace(connection: Connection, organisation: Row[Any], viewer: Viewer) -> int:
    if organisation.private or viewer.token_id is not None:
        here = [listings.c.namespace_key == organisation.key, viewer.sees(listings)]
        return int(connection.execute(select(func.count()).select_from(listings).where(*here)).scalar_one())
    counted = select(facet_counts.c.adapters).where(
        facet_counts.c.field == "namespace", facet_counts.c.value == organisation.key
    )
    return int(connection.execute(counted).scalar_one_or_none() or 0)


def hub_counts(connection: Connection) -> HubCounts:
    """How many of everything the hub shows to everybody."""
    counts: dict[str, int] = dict(
        connection.execute(
            select(facet_counts.c.field, func.count())
            .where(facet_counts.c.field.in_(("model", "namespace")))
            .group_by(facet_counts.c.field)
        ).all()
    )
    kinds = dict(
        connection.execute(
            select(facet_counts.c.value, facet_counts.c.adapters).where(facet_counts.c.field == "kind")
        ).all()
    )
    pairs = {
        row.kind: row
        for row in connection.execute(
            select(
                explore_pairs.c.kind,
                func.count().label("pairs"),
                func.count(explore_pairs.c.task_key.distinct()).label("tasks"),
            ).group_by(explore_pairs.c.kind)
        )
    }
    methods = connection.execute(
        select(facet_counts.c.value, facet_counts.c.adapters)
        .where(facet_counts.c.field == "method")
        .order_by(facet_counts.c.adapters.desc())
    ).all()
    return HubCounts(
        adapters=sum(kinds.values()),
        tasks=pairs["task"].tasks if "task" in pairs else 0,
        datasets=pairs["task"].pairs if "task" in pairs else 0,
        languages=pairs["language"].tasks if "language" in pairs else 0,
        models=counts.get("model", 0),
        namespaces=counts.get("namespace", 0),
        methods=tuple(Choice(row.value, row.adapters) for row in methods),
    )


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
