"""Resolution where many adapters could be meant: only what decides is read, not thousands of lines.

Of a (model, task, subtask) with more than `CROWD` adapters, and of words that find several pairs, the adapters of the
publisher asked for, or the default pointer's, tell the answer; that there are others is told by a few of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, exists, func, literal, or_, select, tuple_

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.storage.records import entry_of
from adapterhub.server.storage.tables import adapters, organisations, versions
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.lookup import PartlyListedError
from adapterhub.spec.reference import AdapterReference, fold
from adapterhub.spec.resolution import ambiguous

__all__ = ["CROWD", "LISTED", "Place", "deciding_entries", "is_crowded", "others", "own_and_others"]

#: up to so many adapters of a pair are read as a whole, and kept
CROWD = 40
#: so many candidates are listed when a reference is ambiguous
LISTED = 100
_OTHERS = 6  # one tells that there are others, five are suggested where the publisher has none


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
    few = select(literal(1)).where(*_at(place)).limit(CROWD + 1).subquery()
    return int(connection.execute(select(func.count()).select_from(few)).scalar_one()) > CROWD


def own_and_others(connection: Connection, place: Place, namespace: str, viewer: Viewer) -> list[IndexEntry]:
    """Every version a publisher has there, and a few of other adapters."""
    own = _lines().where(*_at(place), viewer.sees(adapters), organisations.c.key == fold(namespace))
    found = [entry_of(row.line) for row in connection.execute(own.order_by(versions.c.serial))]
    return [*found, *others(connection, place, viewer, namespace=namespace)]


def others(
    connection: Connection, place: Place, viewer: Viewer, *, namespace: str | None = None, limit: int = _OTHERS
) -> list[IndexEntry]:
    """A few versions that count, of adapters there, not of this publisher."""
    query = _lines().where(*_at(place), viewer.sees(adapters))
    if place.type is not None:
        query = query.where(adapters.c.type == place.type)
    if not place.pinned:
        query = query.where(versions.c.yanked.is_(False))
    if namespace is not None:
        query = query.where(organisations.c.key != fold(namespace))
    return [entry_of(row.line) for row in connection.execute(query.limit(limit))]


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
            select(adapters.c.id)
            .join(organisations, organisations.c.id == adapters.c.organisation_id)
            .where(organisations.c.key == namespace, adapters.c.key == name, *_at(place), viewer.sees(adapters))
        ).scalars()
    query = _lines().where(adapters.c.id.in_(wanted)).order_by(versions.c.serial)
    found = [entry_of(row.line) for row in connection.execute(query)] if wanted else []
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
    version = [versions.c.adapter_id == adapters.c.id, versions.c.state == "published"]
    if not place.pinned:
        version.append(versions.c.yanked.is_(False))
    query = (
        select(adapters.c.id, adapters.c.name, adapters.c.task, adapters.c.subtask, organisations.c.name.label("ns"))
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(*_at(place), viewer.sees(adapters), exists(select(literal(1)).where(*version)))
        .limit(limit)
    )
    if place.type is not None:
        query = query.where(adapters.c.type == place.type)
    return list(connection.execute(query))


def _at(place: Place) -> tuple[Any, ...]:
    if len(place.keys) == 1:
        [(task, subtask)] = place.keys
        return (
            adapters.c.model_name == place.model_name,
            adapters.c.task_key == task,
            adapters.c.subtask_key == subtask,
        )
    if len(place.keys) <= 20:
        pairs = (and_(adapters.c.task_key == task, adapters.c.subtask_key == subtask) for task, subtask in place.keys)
        return adapters.c.model_name == place.model_name, or_(*pairs)
    return (
        adapters.c.model_name == place.model_name,
        tuple_(adapters.c.task_key, adapters.c.subtask_key).in_(list(place.keys[:400])),
    )


def _lines() -> Any:
    return (
        select(versions.c.line)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(versions.c.state == "published")
    )
