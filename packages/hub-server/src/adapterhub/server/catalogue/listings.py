"""Keeps the reading tables true to the records: listings, the full-text index, explore and facet counters.

A `Projection` (see storage.changes): `apply` runs in the transaction that changed the adapters, so that what people see and
what is published never differ. Counters change by the difference of the old and the new row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

from adapterhub.server.catalogue.names import known_name, other_names
from adapterhub.server.catalogue.tables import (
    configs,
    explore_cells,
    explore_pairs,
    facet_counts,
    imported_records,
    listings,
    vocabulary,
)
from adapterhub.server.search.question import PRIVATE_WORD, organisation_word
from adapterhub.server.search.words import document_words, is_facet_word, title_of
from adapterhub.server.storage.bulk import bulk_insert, indexes_afterwards
from adapterhub.server.storage.tables import adapters, manifests, organisations, versions

__all__ = ["ListingsProjection", "rank_of", "row_facets", "shown_version"]

_PAIR = ("kind", "task_key", "subtask_key")
_CELL = (*_PAIR, "model_name", "family", "method", "using", "reduction_factor", "non_linearity")
_BATCH = 500
_TEXT_MEMORY = 64 << 20


#: bits of a rank that hold the adapter's id
_ID_BITS = 42


def rank_of(downloads: int, adapter_id: int) -> int:
    """Place of an adapter in the order of popularity; smaller is more popular.

    Downloads count by their number of binary digits, so that an adapter changes its place only when they double, and
    among equals the older comes first.
    """
    return ((48 - downloads.bit_length()) << _ID_BITS) | adapter_id


def adapter_of(rank: int) -> int:
    """The id of the adapter that has this rank."""
    return rank & ((1 << _ID_BITS) - 1)


class ListingsProjection:
    """The rows behind lists, pages and search."""

    name = "listings"

    def apply(self, connection: Connection, adapter_ids: Sequence[int]) -> None:
        """Bring the rows of these adapters, and every counter they touch, up to date."""
        for start in range(0, len(adapter_ids), _BATCH):
            self._apply(connection, list(dict.fromkeys(adapter_ids[start : start + _BATCH])))

    def rebuild(self, connection: Connection) -> None:
        """Compute all rows and counters anew, in the order of popularity, so that every table only grows at its end."""
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            connection.execute(text("INSERT INTO listings_text(listings_text) VALUES ('delete-all')"))
        for table in (listings, explore_pairs, explore_cells, facet_counts):
            connection.execute(delete(table))
        tally = _Tally()
        seen: dict[str, str] = {}
        found = connection.execute(select(adapters.c.downloads, adapters.c.id).where(adapters.c.listed))
        ranks = sorted(rank_of(downloads, adapter_id) for downloads, adapter_id in found)
        with indexes_afterwards(connection, listings, explore_cells, facet_counts):
            for start in range(0, len(ranks), 5000):
                ids = [adapter_of(rank) for rank in ranks[start : start + 5000]]
                rows = sorted(_rows(connection, ids, seen), key=itemgetter("rank"))
                bulk_insert(connection, listings, rows)
                tally.add_all(rows)
            if sqlite:
                _rebuild_text(connection)
            _keep_configs(connection, seen)
            tally.write_new(connection)

    def _apply(self, connection: Connection, ids: list[int]) -> None:
        old = {row["adapter_id"]: dict(row) for row in connection.execute(_LISTINGS, {"ids": ids}).mappings()}
        seen: dict[str, str] = {}
        new = {row["adapter_id"]: row for row in _rows(connection, ids, seen)}
        _keep_configs(connection, seen)
        tally = _Tally()
        for adapter_id in ids:
            before, after = old.get(adapter_id), new.get(adapter_id)
            if before == after:
                continue
            tally.add(before, -1)
            tally.add(after, 1)
            _replace(connection, before, after)
        tally.write_changes(connection)


class _Tally:
    """Differences of counters, gathered over many rows and written at once."""

    def __init__(self) -> None:
        self.cells: Counter[tuple[str, ...]] = Counter()
        self.facets: Counter[tuple[str, str]] = Counter()
        self.words: Counter[str] = Counter()  # of `add_all`, with the words of facets among them
        self.names: dict[tuple[str, ...], tuple[str, str]] = {}

    def add(self, row: Mapping[str, Any] | None, sign: int) -> None:
        if row is None or row["private"]:
            return
        self._place(row, sign)
        for field, value in row_facets(row):
            self.facets[(field, value)] += sign
        for word in row["words"].split():
            if not is_facet_word(word):
                self.facets[("word", word)] += sign

    def add_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count many rows."""
        for row in rows:
            if not row["private"]:
                self._place(row, 1)
                self.facets.update(row_facets(row))
                self.words.update(row["words"].split())

    def _place(self, row: Mapping[str, Any], sign: int) -> None:
        if row["task_key"] and row["subtask_key"]:  # adapters without a task are found by search alone
            self.cells[tuple(row[field] or "" for field in _CELL)] += sign
        self.names.setdefault(tuple(row[field] for field in _PAIR), (row["task"], row["subtask"]))

    def write_new(self, connection: Connection) -> None:
        """Write everything into empty tables."""
        bulk_insert(
            connection,
            explore_cells,
            (dict(zip((*_CELL, "adapters"), (*cell, n), strict=True)) for cell, n in sorted(self.cells.items())),
        )
        counts = [(field, value, n) for (field, value), n in self.facets.items()]
        counts += [("word", word, n) for word, n in self.words.items() if not is_facet_word(word)]
        bulk_insert(
            connection,
            facet_counts,
            ({"field": field, "value": value[:255], "adapters": n} for field, value, n in sorted(counts)),
        )
        pairs: dict[tuple[str, ...], tuple[int, set[str]]] = {}
        for cell, count in self.cells.items():
            total, models = pairs.get(cell[:3], (0, set()))
            models.add(cell[3])
            pairs[cell[:3]] = (total + count, models)
        bulk_insert(
            connection,
            explore_pairs,
            (
                dict(zip(_PAIR, pair, strict=True))
                | {
                    "task": self.names[pair][0],
                    "subtask": self.names[pair][1],
                    "adapters": total,
                    "models": len(models),
                }
                for pair, (total, models) in sorted(pairs.items())
            ),
        )

    def write_changes(self, connection: Connection) -> None:
        """Add the differences to what the tables hold."""
        cells = {cell: count for cell, count in self.cells.items() if count}
        _add(
            connection,
            explore_cells,
            _CELL,
            [dict(zip(_CELL, cell, strict=True)) | {"adapters": count} for cell, count in sorted(cells.items())],
        )
        _add(
            connection,
            facet_counts,
            ("field", "value"),
            [{"field": f, "value": v[:255], "adapters": n} for (f, v), n in sorted(self.facets.items()) if n],
        )
        _add_to_pairs(connection, cells, self.names)


def row_facets(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The (field, value) pairs a listing is counted and found under."""
    yield "kind", row["kind"]
    yield "type", row["type"]
    if row["task_key"]:
        yield "task", row["task_key"]
    if row["subtask_key"]:
        yield "subtask", row["subtask_key"]
    yield "model", row["model_name"]
    if row["family"]:
        yield "family", row["family"]
    yield "method", row["method"]
    if row["using"]:
        yield "using", row["using"]
    for language in row["languages"].split():
        yield "language", language
    if row["license"]:
        yield "license", row["license"]
    yield "namespace", row["namespace_key"]


def _rows(connection: Connection, ids: Sequence[int], seen: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The listing of each of these adapters that has a published version; their configs are added to `seen` by id."""
    owners = {row.id: row for row in connection.execute(_OWNERS, {"ids": list(ids)})}
    published: dict[int, list[Any]] = {}
    for version in connection.execute(_PUBLISHED, {"ids": list(owners)}):
        published.setdefault(version.adapter_id, []).append(version)
    shown = {
        adapter_id: shown_version(found, owners[adapter_id].default_version) for adapter_id, found in published.items()
    }
    details = _manifest_details(connection, [version.digest for version in shown.values() if version.digest])
    records = _record_details(connection, [adapter_id for adapter_id, version in shown.items() if not version.digest])
    names = _names(connection, [owners[adapter_id] for adapter_id in shown])
    for adapter_id, version in shown.items():
        owner, line = owners[adapter_id], json.loads(version.line)
        if version.config_id and version.config_id not in seen:
            seen[version.config_id] = json.dumps(line.get("config") or {}, separators=(",", ":"), ensure_ascii=False)
        family, languages = details.get(version.digest) or records.get(adapter_id) or ("", ())
        yield _row(owner, version, line, family, languages, len(published[adapter_id]), names)


def _keep_configs(connection: Connection, seen: Mapping[str, str]) -> None:
    """Store configs that are not there yet; what a config id stands for never changes."""
    ids = sorted(seen)
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        known = set(connection.execute(_KNOWN_CONFIGS, {"ids": part}).scalars())
        missing = [{"config_id": name, "config": seen[name]} for name in part if name not in known]
        if missing:
            connection.execute(insert(configs), missing)


def shown_version(found: Sequence[Any], default: str | None) -> Any:
    """Which of an adapter's versions (oldest first) stands for it: the default, else the newest not yanked, else the newest."""
    for version in found:
        if version.version == default:
            return version
    return next((version for version in reversed(found) if not version.yanked), found[-1])


def _manifest_details(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Model family and languages, by manifest digest."""
    found = {}
    for row in connection.execute(_MANIFESTS, {"digests": list(digests)}):
        manifest = json.loads(row.body)
        found[row.digest] = (
            (manifest.get("base_model") or {}).get("family") or "",
            tuple(manifest.get("languages") or ()),
        )
    return found


def _names(connection: Connection, owners: Sequence[Any]) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Names and descriptions of the tasks and data sets of these adapters, so that search finds them by those too."""
    keys = {owner.task_key for owner in owners}
    rows = connection.execute(_VOCABULARY, {"keys": sorted(keys)})
    return {(row.kind, row.task_key, row.subtask_key): (row.name, row.description) for row in rows}


def _record_details(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Model family and languages of imported adapters without a manifest, by adapter."""
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    if ids:
        for row in connection.execute(_RECORDS, {"ids": list(ids)}):
            record = json.loads(row.document)
            found[row.adapter_id] = (record.get("model_type") or "", ())
    return found


def _row(
    owner: Any,
    version: Any,
    line: Mapping[str, Any],
    family: str,
    languages: Iterable[str],
    count: int,
    names: Mapping[tuple[str, str, str], tuple[str, str]],
) -> dict[str, Any]:
    config = line.get("config") or {}
    kind = "language" if owner.type == "text_lang" else "task"
    tags = tuple(languages) or ((owner.language,) if owner.language else ())
    row: dict[str, Any] = {
        "rank": rank_of(owner.downloads, owner.id),
        "adapter_id": owner.id,
        "organisation_id": owner.organisation_id,
        "private": bool(owner.private),
        "namespace": owner.namespace,
        "namespace_key": owner.namespace_key,
        "name": owner.name,
        "name_key": owner.key,
        "version": version.version,
        "digest": version.digest,
        "kind": kind,
        "type": owner.type,
        "task": owner.task,
        "subtask": owner.subtask,
        "task_key": owner.task_key,
        "subtask_key": owner.subtask_key,
        "model_name": owner.model_name,
        "family": family,
        "method": owner.method,
        "using": owner.using,
        "reduction_factor": _plain_number(config.get("reduction_factor")),
        "non_linearity": str(config.get("non_linearity") or "")[:32],
        "config_id": version.config_id,
        "license": owner.license,
        "languages": " ".join(tag.lower() for tag in tags if tag),
        "description": " ".join(owner.description.split())[:400],
        "size": version.size,
        "hidden_size": line.get("hidden_size"),
        "downloads": owner.downloads,
        "versions": count,
        "created_at": owner.created_at,
        "updated_at": owner.updated_at,
        "yanked": bool(version.yanked),
        "status": line.get("status") or "available",
        "sha1": next((file["sha1"] for file in line.get("files") or () if file.get("sha1")), None),
    }
    task_name, task_text = names.get((kind, owner.task_key, ""), (known_name(kind, owner.task), ""))
    data_name, data_text = names.get(
        (kind, owner.task_key, owner.subtask_key), (known_name(kind, owner.task, owner.subtask), "")
    )
    both = f"{task_name} {data_name}" if task_name and data_name else ""
    titles = (task_name, data_name, both, *other_names(owner.task, owner.subtask))
    texts = (
        owner.namespace, owner.name, f"{owner.task} {owner.subtask}", *titles, owner.model_name, row["using"] or "", owner.method,
        kind, row["languages"], row["license"] or "", row["description"], data_text, task_text,
    )  # fmt: skip
    row["words"] = document_words(texts, [*row_facets(row), *(("title", title_of(title)) for title in titles if title)])
    if row["private"]:
        row["words"] += f" {PRIVATE_WORD} {organisation_word(owner.organisation_id)}"
    return row


def _plain_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f"{value:g}"


def _replace(connection: Connection, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
    """Replace a listing. The full-text index of SQLite keeps no content, so it is told the words to forget."""
    fts = connection.dialect.name == "sqlite" and (
        before is None or after is None or (before["rank"], before["words"]) != (after["rank"], after["words"])
    )
    if before is not None and fts:
        connection.execute(_FORGET, {"rank": before["rank"], "words": before["words"]})
    if before is None:
        assert after is not None
        connection.execute(_INSERT, after)
    elif after is None:
        connection.execute(delete(listings).where(listings.c.rank == before["rank"]))
    else:
        connection.execute(update(listings).where(listings.c.rank == before["rank"]).values(after))
    if after is not None and fts:
        connection.execute(_LEARN, {"rank": after["rank"], "words": after["words"]})


_FORGET = text("INSERT INTO listings_text(listings_text, rowid, words) VALUES ('delete', :rank, :words)")
_LEARN = text("INSERT INTO listings_text(rowid, words) VALUES (:rank, :words)")


def _rebuild_text(connection: Connection) -> None:
    """The full-text index of SQLite anew from `listings.words`, in one piece: a question then reads one list a word."""
    for command in (f"('hashsize', {_TEXT_MEMORY})", "('automerge', 0)"):
        connection.exec_driver_sql(f"INSERT INTO listings_text(listings_text, rank) VALUES {command}")
    connection.exec_driver_sql("INSERT INTO listings_text(listings_text) VALUES ('rebuild')")
    connection.exec_driver_sql("INSERT INTO listings_text(listings_text) VALUES ('optimize')")
    for command in ("('hashsize', 1048576)", "('automerge', 4)"):  # as they are by default
        connection.exec_driver_sql(f"INSERT INTO listings_text(listings_text, rank) VALUES {command}")


@lru_cache(maxsize=16)
def _adding(dialect: str, table: Any, key: tuple[str, ...], counts: tuple[str, ...]) -> Any:
    """The statement that adds `counts` to the row of `key`, or makes it. Only the dialect in use is loaded."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as upsert
    else:
        from sqlalchemy.dialects.postgresql import insert as upsert  # type: ignore[assignment]
    statement = upsert(table)
    return statement.on_conflict_do_update(
        index_elements=list(key), set_={name: table.c[name] + statement.excluded[name] for name in counts}
    )


@lru_cache(maxsize=16)
def _falling(table: Any, key: tuple[str, ...]) -> Any:
    """The statement that deletes the row of a key if nothing is left to count."""
    return delete(table).where(table.c.adapters <= 0, *(table.c[name] == bindparam(f"k_{name}") for name in key))


def _add(connection: Connection, table: Any, key: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Add `adapters` of each row to the row of the same key; rows that fall to zero are deleted."""
    if not rows:
        return
    connection.execute(_adding(connection.dialect.name, table, tuple(key), ("adapters",)), rows)
    falling = [{f"k_{name}": row[name] for name in key} for row in rows if row["adapters"] < 0]
    if falling:
        connection.execute(_falling(table, tuple(key)), falling)


def _add_to_pairs(
    connection: Connection, cells: Mapping[tuple[str, ...], int], names: Mapping[tuple[str, ...], tuple[str, str]]
) -> None:
    """Add the differences of cells, which are in the table already, to the counts of their pairs.

    A base model joins or leaves a pair when the sum of its cells there rises from or falls to zero.
    """
    by_model: Counter[tuple[str, ...]] = Counter()
    for cell, count in cells.items():
        by_model[cell[:4]] += count
    totals: Counter[tuple[str, ...]] = Counter()
    models: Counter[tuple[str, ...]] = Counter()
    for place, difference in sorted(by_model.items()):
        here = dict(zip((*_PAIR, "model_name"), place, strict=True))
        after = int(connection.execute(_OF_MODEL, here).scalar_one())
        totals[place[:3]] += difference
        models[place[:3]] += (after > 0) - (after - difference > 0)
    for pair, difference in sorted(totals.items()):
        key = dict(zip(_PAIR, pair, strict=True))
        row = {"task": names[pair][0], "subtask": names[pair][1], "adapters": difference, "models": models[pair]}
        connection.execute(_adding(connection.dialect.name, explore_pairs, _PAIR, ("adapters", "models")), [key | row])
        if difference < 0:
            connection.execute(_falling(explore_pairs, _PAIR), {f"k_{name}": value for name, value in key.items()})


# Statements of the way of a publish, built once.
_IDS: Any = bindparam("ids", expanding=True)
_LISTINGS = select(listings).where(listings.c.adapter_id.in_(_IDS))
_INSERT = insert(listings)
_OWNERS = (
    select(adapters, organisations.c.name.label("namespace"), organisations.c.key.label("namespace_key"))
    .join(organisations, organisations.c.id == adapters.c.organisation_id)
    .where(adapters.c.id.in_(_IDS), adapters.c.listed)
)
_PUBLISHED = (
    select(
        *(
            versions.c[name]
            for name in (
                "adapter_id",
                "version",
                "digest",
                "line",
                "yanked",
                "size",
                "created_at",
                "serial",
                "config_id",
            )
        )
    )
    .where(versions.c.adapter_id.in_(_IDS), versions.c.state == "published")
    .order_by(versions.c.serial)
)
_KNOWN_CONFIGS = select(configs.c.config_id).where(configs.c.config_id.in_(_IDS))
_MANIFESTS = select(manifests.c.digest, manifests.c.body).where(
    manifests.c.digest.in_(bindparam("digests", expanding=True))
)
_VOCABULARY = select(vocabulary).where(vocabulary.c.task_key.in_(bindparam("keys", expanding=True)))
_RECORDS = select(imported_records).where(imported_records.c.adapter_id.in_(_IDS))
_OF_MODEL = select(func.coalesce(func.sum(explore_cells.c.adapters), 0)).where(
    *(explore_cells.c[name] == bindparam(name) for name in (*_PAIR, "model_name"))
)
