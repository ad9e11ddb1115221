"""The sparse index as files, made from the database on request: the same bytes on every replica."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Integer, and_, false, func, not_, or_, select, true

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.resolving.pairs import spellings
from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import (
    adapters,
    hub,
    organisations,
    pair_defaults,
    pair_paths,
    pair_words,
    pairs,
    versions,
)
from adapterhub.spec.index import INDEX_VERSION, parse_file
from adapterhub.spec.index_files import (
    SPLIT_ABOVE,
    Witness,
    count_line,
    pointer_line,
    witnesses,
    write_models,
    write_words,
)
from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import load_aliases

__all__ = ["etag_of", "hub_config", "index_file", "index_pages", "is_index_path"]

_Key: TypeAlias = tuple[str, str, str]  # model, folded task, folded subtask

_NAMESPACE = re.compile(r"ns/([^/]{1,2})/([^/]{1,64})/([^/]{1,128})\.jsonl")
_BUCKET = re.compile(r"([kwa])/([0-9a-f]{4})\.jsonl|(m)/([0-9a-f]{4})\.json")
_PAGE = re.compile(r"([kw])/([0-9a-f]{4})/([^/]{1,64})\.jsonl")
_KEPT_HEADS = 256


_SERIAL = select(hub.c.number).where(hub.c.key == "serial")


class _Pair(NamedTuple):
    model_name: str
    task: str
    subtask: str
    type: str
    yanked: bool


def etag_of(body: bytes) -> str:
    """A strong entity tag: equal bytes, equal tag, on every replica."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def hub_config(connection: Connection, settings: Settings) -> dict[str, Any]:
    """`/index/config.json`: what the hub is and where its parts are, all relative to its address."""
    from adapterhub.server.storage.database import hub_text

    return {
        "hub_id": hub_text(connection, "id"),
        "name": settings.name,
        "api": "/v1",
        "blobs": "/v1/blobs/{digest}",
        "manifests": "/v1/manifests/{digest}",
        "auth_required": False,
        "index_version": INDEX_VERSION,
    }


def is_index_path(path: str) -> bool:
    """Whether `/index/<path>` could be a file of adapters, whatever it holds."""
    return any(pattern.fullmatch(path) for pattern in (_NAMESPACE, _BUCKET, _PAGE)) and "/." not in path


def index_file(connection: Connection, settings: Settings, path: str, viewer: Viewer = ANONYMOUS) -> bytes | None:
    """The file at `/index/<path>`; None where there is none.

    Buckets that hold nothing are no files: a client takes 404 for empty.
    """
    if path == "config.json":
        return f"{_dump(hub_config(connection, settings))}\n".encode()
    if path == "aliases.json":
        return f"{_dump(load_aliases())}\n".encode()
    if found := _NAMESPACE.fullmatch(path):
        return _adapter_file(connection, found[1], found[2], found[3], viewer)
    if found := _BUCKET.fullmatch(path):
        kind, bucket = (found[1], found[2]) if found[1] else (found[3], found[4])
        make = {"k": _bucket_file, "w": _word_file, "a": _whole_bucket, "m": _model_file}[kind]
        return make(connection, bucket, viewer)
    if (found := _PAGE.fullmatch(path)) and fold(found[3]) == found[3]:
        return index_pages(connection, found[1], found[2], viewer, namespace=found[3]).get(found[3])
    return None


def _adapter_file(connection: Connection, start: str, namespace: str, name: str, viewer: Viewer) -> bytes | None:
    if start != namespace[:2] or fold(namespace) != namespace or fold(name) != name:
        return None
    rows = connection.execute(
        select(versions.c.line)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(
            versions.c.state == "published",
            organisations.c.key == namespace,
            adapters.c.key == name,
            viewer.sees(adapters),
        )
        .order_by(versions.c.serial)
    )
    return _lines([row.line for row in rows])


def index_pages(
    connection: Connection, kind: str, bucket: str, viewer: Viewer = ANONYMOUS, *, namespace: str | None = None
) -> dict[str, bytes]:
    """The pages of a file that is split, `/index/<kind>/<bucket>/<namespace>.jsonl`, by folded namespace.

    Args:
        namespace: only this one's.
    """
    wanted: set[_Key] = set()
    if kind == "k":
        wanted |= _crowded_in(connection, bucket).keys()
    for (model, _), line in parse_file(_word_lines(connection, bucket, viewer, paths=kind == "k")).words.items():
        if line.split:
            wanted |= {(model, fold(task), fold(subtask)) for task, subtask, _ in [*line.pairs, *line.yanked]}
    starts: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = {}
    own = _by_namespace(connection, wanted, viewer, namespace)
    kinds = _kinds(connection, {key[0] for key in own})
    for key in sorted(own):
        few = _few(connection, key, kinds.get(key, set())) if viewer is ANONYMOUS else _counts(connection, key, viewer)
        pointer, counts = _pointer(connection, key, viewer), count_line(*key, few, most=2)
        for name, found in own[key].items():
            starts.setdefault(name, []).extend([*pointer, counts])
            lines.setdefault(name, []).extend(found)
    # default pointers first, as in every file of the index
    return {name: _lines(sorted(starts[name], key=_is_count) + lines[name]) or b"" for name in lines}


def _by_namespace(
    connection: Connection, wanted: set[_Key], viewer: Viewer, namespace: str | None
) -> dict[_Key, dict[str, list[str]]]:
    """The lines of these pairs by namespace, in the order they were published."""
    found: dict[_Key, dict[str, list[str]]] = {}
    lines = (
        select(
            versions.c.line,
            adapters.c.model_name,
            adapters.c.task_key,
            adapters.c.subtask_key,
            organisations.c.key,
        )
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(versions.c.state == "published", viewer.sees(adapters))
        .order_by(versions.c.serial)
    )
    if namespace is None:
        queries = [lines.where(*_is_pair(key)) for key in sorted(wanted)]
    else:
        # what one publisher has for a model is little beside what a word finds: look there, then take the lines
        owner = select(organisations.c.id).where(organisations.c.key == namespace).scalar_subquery()
        rows = connection.execute(
            select(adapters.c.id, adapters.c.model_name, adapters.c.task_key, adapters.c.subtask_key).where(
                adapters.c.organisation_id == owner, adapters.c.model_name.in_({key[0] for key in wanted})
            )
        )
        ids = [row.id for row in rows if (row.model_name, row.task_key, row.subtask_key) in wanted]
        queries = [lines.where(adapters.c.id.in_(ids[start : start + 400])) for start in range(0, len(ids), 400)]
    for query in queries:
        for row in connection.execute(query):
            key = row.model_name, row.task_key, row.subtask_key
            found.setdefault(key, {}).setdefault(row.key, []).append(row.line)
    return found


def _kinds(connection: Connection, models: set[str]) -> dict[_Key, set[str]]:
    """The types of adapters there are of each pair of these models."""
    found: dict[_Key, set[str]] = {}
    for row in connection.execute(select(pairs).where(pairs.c.model_name.in_(models))) if models else ():
        found.setdefault((row.model_name, fold(row.task), fold(row.subtask)), set()).add(row.type)
    return found


def _few(connection: Connection, key: _Key, kinds: set[str]) -> dict[str, tuple[int, int]]:
    """As `_counts` for what everybody sees, but no further than two."""
    found = {}
    for kind in sorted(kinds):
        some = (
            select(adapters.c.id)
            .distinct()
            .join(versions, versions.c.adapter_id == adapters.c.id)
            .where(
                versions.c.state == "published", adapters.c.private == false(), adapters.c.type == kind, *_is_pair(key)
            )
            .limit(2)
        )
        live = len(connection.execute(some.where(versions.c.yanked == false())).all())
        found[kind] = live, 2 if live == 2 else len(connection.execute(some).all())
    return found


def _bucket_file(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    if viewer is not ANONYMOUS:
        return _head(connection, bucket, viewer, _crowded_in(connection, bucket))
    key = (str(connection.engine.url), bucket)
    serial = int(connection.execute(_SERIAL).scalar_one())
    kept, body = _heads.get(key, serial)
    if not kept:
        crowded = _crowded_in(connection, bucket)
        body = _head(connection, bucket, viewer, crowded)
        if crowded:  # the others are cheap, and many
            _heads.put(key, serial, body)
    return body


def _head(connection: Connection, bucket: str, viewer: Viewer, crowded: dict[_Key, int]) -> bytes | None:
    """A bucket file, with some adapters only of what is crowded."""
    query = _in_bucket(bucket, viewer)
    for model, task, subtask in crowded:
        same = and_(adapters.c.model_name == model, adapters.c.task_key == task, adapters.c.subtask_key == subtask)
        query = query.where(or_(not_(same), adapters.c.private == true()))
    rows: list[Any] = list(connection.execute(query))
    shown = [row.id for key in crowded for row in _shown(connection, key)]
    if shown:
        rows += connection.execute(
            _in_bucket(bucket, viewer).where(adapters.c.id.in_(shown), adapters.c.private == false())
        )
        rows.sort(key=lambda row: int(row.serial))
    keys = sorted({*crowded, *((row.model_name, row.task_key, row.subtask_key) for row in rows)})
    lines = [line for key in keys for line in _pointer(connection, key, viewer)]
    lines += _word_lines(connection, bucket, viewer, paths=True).splitlines()
    lines += [count_line(*key, _counts(connection, key, viewer)) for key in sorted(crowded)]
    return _lines([*lines, *(row.line for row in rows)])


def _whole_bucket(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    """Every line of a bucket whose own file is split."""
    if not _crowded_in(connection, bucket):
        return None
    rows = connection.execute(_in_bucket(bucket, viewer)).all()
    keys = sorted({(row.model_name, row.task_key, row.subtask_key) for row in rows})
    return _lines([*(line for key in keys for line in _pointer(connection, key, viewer)), *(row.line for row in rows)])


def _in_bucket(bucket: str, viewer: Viewer) -> Any:
    return (
        select(
            versions.c.line,
            versions.c.serial,
            adapters.c.id,
            adapters.c.model_name,
            adapters.c.task_key,
            adapters.c.subtask_key,
        )
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(versions.c.bucket == bucket, versions.c.state == "published", viewer.sees(adapters))
        .order_by(versions.c.serial)
    )


def _is_pair(key: _Key) -> tuple[Any, ...]:
    model, task, subtask = key
    return adapters.c.model_name == model, adapters.c.task_key == task, adapters.c.subtask_key == subtask


def _crowded_in(connection: Connection, bucket: str) -> dict[_Key, int]:
    """The (model, task, subtask) of a bucket that have too many public adapters for one file."""
    count = func.count(adapters.c.id.distinct())
    rows = connection.execute(
        select(adapters.c.model_name, adapters.c.task_key, adapters.c.subtask_key, count.label("number"))
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(versions.c.bucket == bucket, versions.c.state == "published", adapters.c.private == false())
        .group_by(adapters.c.model_name, adapters.c.task_key, adapters.c.subtask_key)
        .having(count > SPLIT_ABOVE)
    )
    return {(row.model_name, row.task_key, row.subtask_key): row.number for row in rows}


class _Crowded:
    """Which (model, task, subtask) have too many public adapters for one file; asked for one by one."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __contains__(self, key: object) -> bool:
        few = (
            select(adapters.c.id)
            .where(*_is_pair(key), adapters.c.private == false(), adapters.c.listed == true())  # type: ignore[arg-type]
            .limit(SPLIT_ABOVE + 1)
            .subquery()
        )
        return int(self.connection.execute(select(func.count()).select_from(few)).scalar_one()) > SPLIT_ABOVE


def _shown(connection: Connection, key: _Key) -> list[Any]:
    """The adapters of a crowded pair that its bucket file holds."""
    rows = connection.execute(
        select(
            adapters.c.id,
            adapters.c.organisation_id,
            adapters.c.type,
            func.max(versions.c.config_id).label("config"),
            func.min(versions.c.yanked.cast(Integer)).label("yanked"),
        )
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(versions.c.state == "published", adapters.c.private == false(), *_is_pair(key))
        .group_by(adapters.c.id, adapters.c.organisation_id, adapters.c.type)
        .order_by(adapters.c.id)
    ).all()
    pointer = connection.execute(
        select(pair_defaults.c.adapter_id).where(
            pair_defaults.c.model_name == key[0],
            pair_defaults.c.task_key == key[1],
            pair_defaults.c.subtask_key == key[2],
        )
    ).scalar_one_or_none()
    listed = (Witness(row.id, row.organisation_id, row.type, row.config or "", not row.yanked) for row in rows)
    chosen = set(witnesses(listed, pointer))
    return [row for row in rows if row.id in chosen]


def _counts(connection: Connection, key: _Key, viewer: Viewer) -> dict[str, tuple[int, int]]:
    """type → (adapters with a version that is not yanked, all adapters)."""
    each = (
        select(adapters.c.type, func.min(versions.c.yanked.cast(Integer)).label("yanked"))
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(versions.c.state == "published", viewer.sees(adapters), *_is_pair(key))
        .group_by(adapters.c.id, adapters.c.type)
        .subquery()
    )
    rows = connection.execute(
        select(each.c.type, func.sum(1 - each.c.yanked).label("live"), func.count().label("number")).group_by(
            each.c.type
        )
    )
    return {row.type: (int(row.live), int(row.number)) for row in rows}


def _pointer(connection: Connection, key: _Key, viewer: Viewer) -> list[str]:
    """The line of the default pointer, if there is one."""
    row = connection.execute(
        select(organisations.c.name.label("ns"), adapters.c.name, adapters.c.task, adapters.c.subtask)
        .select_from(pair_defaults)
        .join(adapters, adapters.c.id == pair_defaults.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(
            pair_defaults.c.model_name == key[0],
            pair_defaults.c.task_key == key[1],
            pair_defaults.c.subtask_key == key[2],
            viewer.sees(adapters),
        )
    ).first()
    return [] if row is None else [pointer_line(key[0], row.task, row.subtask, f"@{row.ns}/{row.name}")]


def _is_count(line: str) -> bool:
    return line.startswith('{"counts"')


class _Heads:
    """Bucket files of crowded pairs, as long as nothing in the hub changed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[int, bytes | None]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str], serial: int) -> tuple[bool, bytes | None]:
        """Whether the file is kept as it is at this serial, and the file."""
        with self._lock:
            found = self._kept.get(key)
        return (True, found[1]) if found is not None and found[0] == serial else (False, None)

    def put(self, key: tuple[str, str], serial: int, body: bytes | None) -> None:
        """Keep a file."""
        with self._lock:
            self._kept[key] = (serial, body)
            while len(self._kept) > _KEPT_HEADS:
                self._kept.popitem(last=False)


_heads = _Heads()


def _word_file(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    return _word_lines(connection, bucket, viewer, paths=False).encode() or None


def _word_lines(connection: Connection, bucket: str, viewer: Viewer, *, paths: bool) -> str:
    """The lines of words, or of other spellings `task/subtask`, that belong to a bucket."""
    table = pair_paths if paths else pair_words
    rows = connection.execute(
        select(pairs.c.model_name, pairs.c.task, pairs.c.subtask, pairs.c.type, pairs.c.live)
        .distinct()
        .join(
            table,
            (pairs.c.model_name == table.c.model_name)
            & (pairs.c.task == table.c.task)
            & (pairs.c.subtask == table.c.subtask)
            & (pairs.c.type == table.c.type),
        )
        .where(table.c.bucket == bucket)
    )
    entries = [_Pair(row.model_name, row.task, row.subtask, row.type, not row.live) for row in rows]
    entries += _private_pairs(connection, viewer)
    return write_words(
        entries,  # type: ignore[arg-type]
        bucket=bucket,
        spellings=spellings(),
        crowded=_Crowded(connection),
        paths=paths,
    )


def _model_file(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    rows = connection.execute(select(pairs).where(pairs.c.model_bucket == bucket))
    entries = [_Pair(row.model_name, row.task, row.subtask, row.type, not row.live) for row in rows]
    entries += _private_pairs(connection, viewer)
    text = write_models(entries, bucket=bucket)  # type: ignore[arg-type]
    return text.encode() if json.loads(text)["models"] else None


def _private_pairs(connection: Connection, viewer: Viewer) -> list[_Pair]:
    if not viewer.sees_private:
        return []
    rows = connection.execute(
        select(adapters.c.model_name, adapters.c.task, adapters.c.subtask, adapters.c.type, versions.c.yanked)
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(adapters.c.private == true(), versions.c.state == "published", viewer.sees(adapters))
        .distinct()
    )
    return [_Pair(row.model_name, row.task, row.subtask, row.type, row.yanked) for row in rows]


def _lines(lines: list[str]) -> bytes | None:
    return "".join(f"{line}\n" for line in lines).encode() if lines else None


def _dump(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
