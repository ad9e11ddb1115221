"""The sparse index as files, made from the database on request: the same bytes on every replica."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, true

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.settings import Settings
from adapterhub.server.storage.tables import adapters, organisations, pair_defaults, pair_words, pairs, versions
from adapterhub.spec.index import (
    INDEX_VERSION,
    segment_prefixes,
    word_bucket_of,
    write_models,
    write_words,
)
from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import load_aliases

__all__ = ["etag_of", "hub_config", "index_file"]

_NAMESPACE = re.compile(r"ns/([^/]{1,2})/([^/]{1,64})/([^/]{1,128})\.jsonl")
_BUCKET = re.compile(r"(k|w)/([0-9a-f]{4})\.jsonl|(m)/([0-9a-f]{4})\.json")


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
        make = {"k": _bucket_file, "w": _word_file, "m": _model_file}[kind]
        return make(connection, bucket, viewer)
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


def _bucket_file(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    rows = connection.execute(
        select(versions.c.line, adapters.c.model_name, adapters.c.task_key, adapters.c.subtask_key)
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .where(versions.c.bucket == bucket, versions.c.state == "published", viewer.sees(adapters))
        .order_by(versions.c.serial)
    ).all()
    if not rows:
        return None
    lines = []
    for model, task, subtask in sorted({(row.model_name, row.task_key, row.subtask_key) for row in rows}):
        pointer = connection.execute(
            select(organisations.c.name.label("ns"), adapters.c.name, adapters.c.task, adapters.c.subtask)
            .select_from(pair_defaults)
            .join(adapters, adapters.c.id == pair_defaults.c.adapter_id)
            .join(organisations, organisations.c.id == adapters.c.organisation_id)
            .where(
                pair_defaults.c.model_name == model,
                pair_defaults.c.task_key == task,
                pair_defaults.c.subtask_key == subtask,
                viewer.sees(adapters),
            )
        ).first()
        if pointer is not None:
            lines.append(
                _dump(
                    {
                        "v": INDEX_VERSION,
                        "default": f"@{pointer.ns}/{pointer.name}",
                        "model_name": model,
                        "task": pointer.task,
                        "subtask": pointer.subtask,
                    }
                )
            )
    return _lines([*lines, *(row.line for row in rows)])


def _word_file(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    rows = connection.execute(
        select(pair_words.c.model_name, pair_words.c.word, pairs.c.task, pairs.c.subtask, pairs.c.type, pairs.c.live)
        .join(
            pairs,
            (pairs.c.model_name == pair_words.c.model_name)
            & (pairs.c.task == pair_words.c.task)
            & (pairs.c.subtask == pair_words.c.subtask)
            & (pairs.c.type == pair_words.c.type),
        )
        .where(pair_words.c.bucket == bucket)
    )
    entries = [_Pair(row.model_name, row.task, row.subtask, row.type, not row.live) for row in rows]
    entries += [
        pair
        for pair in _private_pairs(connection, viewer)
        if any(
            word_bucket_of(pair.model_name, word) == bucket
            for word in {*segment_prefixes(pair.task), *segment_prefixes(pair.subtask)}
        )
    ]
    text = write_words(entries, bucket=bucket)  # type: ignore[arg-type]
    return text.encode() if text else None


def _model_file(connection: Connection, bucket: str, viewer: Viewer) -> bytes | None:
    rows = connection.execute(select(pairs).where(pairs.c.model_bucket == bucket))
    entries = [_Pair(row.model_name, row.task, row.subtask, row.type, not row.live) for row in rows]
    entries += _private_pairs(connection, viewer)
    text = write_models(entries, bucket=bucket)  # type: ignore[arg-type]
    return text.encode() if json.loads(text)["models"] else None


def _private_pairs(connection: Connection, viewer: Viewer) -> list[_Pair]:
    if viewer.token_id is None or not viewer.scopes:
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
