"""Which tasks and subtasks a model has, and which of them a word finds: kept beside the adapters for index and resolution."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, false, func, select, update

from adapterhub.server.storage.bulk import bulk_insert, indexes_afterwards
from adapterhub.server.storage.tables import adapters, pair_paths, pair_words, pairs, versions
from adapterhub.spec.index import model_bucket_of, word_bucket_of
from adapterhub.spec.index_files import Spellings, spelling_bucket_of
from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import load_aliases

__all__ = ["PairProjection", "spellings"]

_NAMES = ("model_name", "task", "subtask", "type")
_SAME = tuple(adapters.c[name] for name in _NAMES)

# Statements of the way of a publish, built once.
_PLACES = select(*_SAME).where(adapters.c.id.in_(bindparam("ids", expanding=True)))
_HERE = tuple(pairs.c[name] == bindparam(name) for name in _NAMES)
_KNOWN = select(pairs.c.live).where(*_HERE)
_ANY = (
    select(versions.c.id)
    .join(adapters, versions.c.adapter_id == adapters.c.id)
    .where(
        versions.c.state == "published",
        adapters.c.private == false(),
        *(adapters.c[name] == bindparam(name) for name in _NAMES),
        *(adapters.c[name] == bindparam(name) for name in ("task_key", "subtask_key")),  # the index is on these
    )
    .limit(1)
)
_LIVE = _ANY.where(versions.c.yanked == false())


@functools.cache
def spellings() -> Spellings:
    """By what else tasks and subtasks are found: the alias table of the spec."""
    return Spellings(load_aliases())


class PairProjection:
    """Keeps `pairs`, `pair_words` and `pair_paths`, which hold what everybody may see."""

    name = "pairs"

    def apply(self, connection: Connection, adapter_ids: Sequence[int]) -> None:
        """Look again at the (model, task, subtask, type) of these adapters."""
        keys = {
            (row.model_name, row.task, row.subtask, row.type)
            for row in connection.execute(_PLACES, {"ids": list(adapter_ids)})
        }
        for key in keys:
            self._look_again(connection, key)

    def rebuild(self, connection: Connection) -> None:
        """Compute all of it anew from adapters and versions."""
        connection.execute(delete(pair_words))
        connection.execute(delete(pair_paths))
        connection.execute(delete(pairs))
        query = (
            select(*_SAME, func.min(versions.c.yanked.cast(_integer())).label("yanked"))
            .join(versions, versions.c.adapter_id == adapters.c.id)
            .where(versions.c.state == "published", adapters.c.private == false())
            .group_by(*_SAME)
        )
        rows = sorted((tuple(row[:4]), not row.yanked) for row in connection.execute(query))
        with indexes_afterwards(connection, pairs, pair_words, pair_paths):
            for start in range(0, len(rows), 5000):
                _insert_pairs(connection, rows[start : start + 5000])

    def _look_again(self, connection: Connection, key: tuple[str, ...]) -> None:
        here = dict(zip(_NAMES, key, strict=True))
        folded = here | {"task_key": fold(key[1]), "subtask_key": fold(key[2])}
        known = connection.execute(_KNOWN, here).first()
        live = connection.execute(_LIVE, folded).first() is not None
        if live or connection.execute(_ANY, folded).first() is not None:
            if known is None:
                _insert_pairs(connection, [(key, live)])
            elif known.live != live:
                same = (pairs.c[name] == value for name, value in here.items())
                connection.execute(update(pairs).where(*same).values(live=live))
        elif known is not None:
            for table in (pair_words, pair_paths):
                connection.execute(delete(table).where(*(table.c[name] == value for name, value in here.items())))
            connection.execute(delete(pairs).where(*_HERE), here)


def _integer() -> Any:
    from sqlalchemy import Integer

    return Integer


def _insert_pairs(connection: Connection, rows: Iterable[tuple[tuple[Any, ...], bool]]) -> None:
    pair_rows, word_rows, path_rows = [], [], []
    for (model, task, subtask, kind), live in rows:
        row = {"model_name": model, "task": task, "subtask": subtask, "type": kind}
        pair_rows.append({**row, "live": live, "model_bucket": model_bucket_of(model)})
        if task or subtask:
            words, paths = sorted(spellings().words(task, subtask)), sorted(spellings().paths(task, subtask))
            word_rows += [{**row, "word": word, "bucket": word_bucket_of(model, word)} for word in words]
            path_rows += [{**row, "path": path, "bucket": spelling_bucket_of(model, path)} for path in paths]
    bulk_insert(connection, pairs, pair_rows)
    bulk_insert(connection, pair_words, word_rows)
    bulk_insert(connection, pair_paths, path_rows)
