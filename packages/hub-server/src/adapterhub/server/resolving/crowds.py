"""Resolution where many adapters could be meant: only what decides is read, not thousands of lines.

Of a (model, task, subtask) with more than `CROWD` adapters, and of words that find several pairs, the adapters of the
publisher asked for, or the default pointer's, tell the answer; that there are others is told by a few of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Row, and_, bindparam, exists, false, literal, or_, select, tuple_

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.records import entry_of
from adapterhub.server.storage.tables import adapters, organisations, versions
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.lookup import PartlyListedError
from adapterhub.spec.reference import AdapterReference, fold
from adapterhub.spec.resolution import ambiguous

__all__ = ["CROWD", "LISTED", "Place", "deciding_entries", "is_crowded", "others", "own_and_others"]

#: up to so many adapters of a pair are read as a whole, and kept
CROWD = 12
#: of a word that finds more pairs, these are looked at
_MOST_PAIRS = 400
#: so many candidates are listed when a reference is ambiguous: more than a person reads, and than the first hub had
LISTED = 100


class Place(NamedTuple):
    """Where to look: folded (task, subtask) pairs of a model; `type` if only adapters of that one count, `pinned` if yanked
    versions do."""

    model_name: str
    keys: tuple[tuple[str, str], ...]
    type: str | None
    pinned: bool


def is_crowded(connection: Connection, place: Place) -> bool:
    """Whether a pair has more than `CROWD` adapters."""
    if not place.keys:
        return False
    return len(connection.execute(_FEW, _at_pair(place)).all()) > CROWD


def own_and_others(
    connection: Connection, place: Place, namespace: str, viewer: Viewer, *, limit: int = 1
) -> list[IndexEntry]:
    """Every version a publisher has there, and of up to `limit` adapters of others."""
    parameters = {**_at_pair(place), "namespace": fold(namespace)}
    rows = connection.execute(_own_lines(viewer, _keys(place)), parameters).all()
    found = [entry_of(row.line) for row in rows]
    return [*found, *others(connection, place, viewer, namespace=namespace, limit=limit)]


def others(
    connection: Connection, place: Place, viewer: Viewer, *, namespace: str = "", limit: int = 1
) -> list[IndexEntry]:
    """A few versions that count, of adapters there, not of this publisher."""
    parameters = {**_at_pair(place), "namespace": fold(namespace), "type": place.type, "limit": limit}
    statement = _other_lines(viewer, _keys(place), place.type is not None, place.pinned)
    return [entry_of(row.line) for row in connection.execute(statement, parameters)]


def deciding_entries(
    connection: Connection,
    reference: AdapterReference,
    place: Place,
    viewer: Viewer,
    defaults: Mapping[tuple[str, str, str], str],
) -> list[IndexEntry]:
    """The entries that decide a path without a publisher: those of the default pointer's adapter, or of the only one.

    Raises:
        AmbiguousAdapterError: several adapters fit; `PartlyListedError` if they are more than `LISTED`.
    """
    rows = _candidates(connection, place, viewer, LISTED + 1)
    pairs = len({(fold(row.task), fold(row.subtask)) for row in rows})
    pointer = next(iter(defaults.values()), None) if len(place.keys) == 1 else None
    if len(rows) > 1 and pointer is None:
        raise _several(reference, place, rows, len(place.keys) if len(rows) > LISTED else pairs)
    wanted = [row.id for row in rows]
    if pointer is not None:
        namespace, _, name = fold(pointer).removeprefix("@").partition("/")
        wanted = wanted[:2]
        wanted += connection.execute(
            _POINTED_AT.where(viewer.sees(adapters)), {"namespace": namespace, "name": name}
        ).scalars()
    found = [entry_of(row.line) for row in connection.execute(_ENTRIES_BY_ID, {"ids": wanted})] if wanted else []
    if pointer is not None and len(rows) > 1:
        chosen = [entry for entry in found if fold(entry.adapter) == fold(pointer) and _counts(entry, place)]
        if not chosen:
            raise _several(reference, place, rows, pairs)
    return found


def _counts(entry: IndexEntry, place: Place) -> bool:
    return place.type in (None, entry.type) and (place.pinned or not entry.yanked)


def _several(reference: AdapterReference, place: Place, rows: list[Row[Any]], pairs: int) -> Exception:
    candidates = [{"id": f"{row.task}/{row.subtask}@{row.ns}", "adapter": f"@{row.ns}/{row.name}"} for row in rows]
    error = ambiguous(reference, place.model_name, candidates[:LISTED], pairs)
    if len(rows) <= LISTED:
        return error
    listed = ", ".join(f"{one['adapter']} ({one['id']})" for one in error.candidates[:10])
    many = f"{pairs} tasks" if pairs > 1 else f"more than {LISTED} adapters"
    return PartlyListedError(
        f"{str(reference)!r} means {many} for {place.model_name}, such as {listed}.",
        hint=error.hint,
        candidates=error.candidates,
    )


def _candidates(connection: Connection, place: Place, viewer: Viewer, limit: int) -> list[Row[Any]]:
    """Adapters there with a version that counts, as far as an answer names them."""
    statement = _candidate_rows(viewer, _keys(place), place.type is not None, place.pinned)
    return list(connection.execute(statement, {**_at_pair(place), "type": place.type, "limit": limit}))


# Statements are built once for each kind of question; several pairs stand in the statement, a single one in parameters.

_Keys: TypeAlias = tuple[tuple[str, str], ...] | None


def _keys(place: Place) -> _Keys:
    return None if len(place.keys) == 1 else place.keys


def _at_pair(place: Place) -> dict[str, Any]:
    task, subtask = place.keys[0] if len(place.keys) == 1 else ("", "")
    return {"model": place.model_name, "task": task, "subtask": subtask}


def _where(keys: _Keys) -> tuple[Any, ...]:
    of_model = adapters.c.model_name == bindparam("model")
    if keys is None:
        return of_model, adapters.c.task_key == bindparam("task"), adapters.c.subtask_key == bindparam("subtask")
    if len(keys) <= 20:
        pairs = (and_(adapters.c.task_key == task, adapters.c.subtask_key == subtask) for task, subtask in keys)
        return of_model, or_(*pairs)
    return of_model, tuple_(adapters.c.task_key, adapters.c.subtask_key).in_(list(keys[:_MOST_PAIRS]))


def _lines() -> Any:
    return (
        select(versions.c.line)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(versions.c.state == "published")
    )


@lru_cache(maxsize=64)
def _own_lines(viewer: Viewer, keys: _Keys) -> Any:
    return (
        _lines()
        .where(*_where(keys), viewer.sees(adapters), organisations.c.key == bindparam("namespace"))
        .order_by(versions.c.serial)
    )


@lru_cache(maxsize=64)
def _other_lines(viewer: Viewer, keys: _Keys, of_type: bool, pinned: bool) -> Any:
    query = _lines().where(*_where(keys), viewer.sees(adapters), organisations.c.key != bindparam("namespace"))
    if of_type:
        query = query.where(adapters.c.type == bindparam("type"))
    if not pinned:
        query = query.where(versions.c.yanked == false())
    return query.limit(bindparam("limit"))


@lru_cache(maxsize=64)
def _candidate_rows(viewer: Viewer, keys: _Keys, of_type: bool, pinned: bool) -> Any:
    version = [versions.c.adapter_id == adapters.c.id, versions.c.state == "published"]
    if not pinned:
        version.append(versions.c.yanked == false())
    query = (
        select(adapters.c.id, adapters.c.name, adapters.c.task, adapters.c.subtask, organisations.c.name.label("ns"))
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(*_where(keys), viewer.sees(adapters), exists(select(literal(1)).where(*version)))
    )
    if of_type:
        query = query.where(adapters.c.type == bindparam("type"))
    return query.limit(bindparam("limit"))


_FEW = select(literal(1)).select_from(adapters).where(*_where(None)).limit(CROWD + 1)
_ENTRIES_BY_ID = _lines().where(adapters.c.id.in_(bindparam("ids", expanding=True))).order_by(versions.c.serial)
_POINTED_AT = (
    select(adapters.c.id)
    .join(organisations, organisations.c.id == adapters.c.organisation_id)
    .where(organisations.c.key == bindparam("namespace"), adapters.c.key == bindparam("name"))
)
