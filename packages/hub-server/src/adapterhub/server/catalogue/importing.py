"""Brings a catalogue of the 2020 hub into this one: organisations, adapters, versions, default pointers, vocabulary.

Everything happens in one transaction. Importing again adds what is new and changes nothing that is here: versions are
immutable, default pointers belong to their owners once set. Versions are listed as `unavailable` until their bytes come.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from adapterhub.server.accounts.organisations import create_organisation
from adapterhub.server.catalogue.names import titled
from adapterhub.server.catalogue.tables import architectures, imported_records, vocabulary
from adapterhub.server.moderation.audit import record
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.records import add_version, upsert_adapter
from adapterhub.server.storage.tables import organisations, pair_defaults, versions
from adapterhub.spec.catalogue import AdapterRecord, Catalogue
from adapterhub.spec.index import IndexEntry, model_bucket_of
from adapterhub.spec.legacy import read_legacy_catalogue, repair_report
from adapterhub.spec.reference import fold

__all__ = ["Imported", "import_catalogue"]


@dataclasses.dataclass(slots=True)
class Imported:
    """What an import did.

    Attributes:
        organisations, adapters, versions: how many were added.
        known: versions that were here already, unchanged.
        conflicts: versions that are here with other content; they were left alone.
        defaults: default pointers set.
        vocabulary: tasks, languages, data sets and domains described.
        repairs: how many repairs of each kind the reader made.
        report: every repair, as Markdown.
    """

    organisations: int = 0
    adapters: int = 0
    versions: int = 0
    known: int = 0
    conflicts: list[str] = dataclasses.field(default_factory=list)
    defaults: int = 0
    vocabulary: int = 0
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)
    report: str = ""

    def to_json(self) -> dict[str, Any]:
        """Every figure; the report is left out."""
        document = dataclasses.asdict(self)
        document.pop("report")
        return document


def import_catalogue(storage: Storage, folder: str | Path, *, actor: str = "operator") -> Imported:
    """Import the YAML tree in `folder`.

    Raises:
        FileNotFoundError: the folder is no catalogue.
        ValidationFailedError: files that cannot be read; nothing is imported then.
    """
    catalogue = read_legacy_catalogue(folder)
    done = Imported(repairs=catalogue.repair_counts, report=repair_report(catalogue.repairs))
    with storage.database.write() as connection:
        serial = next_serial(connection)
        owners = _organisations(connection, catalogue, done)
        _vocabulary(connection, catalogue, done)  # before the adapters: search finds them by these names
        ids = _adapters(connection, catalogue, owners, serial, done)
        _defaults(connection, catalogue, ids, done)
        record(connection, actor, "catalogue.import", Path(folder).name, done.to_json(), serial=serial)
        project(connection, sorted(ids.values()))
    return done


def _organisations(connection: Connection, catalogue: Catalogue, done: Imported) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in catalogue.organisations:
        by_key = select(organisations).where(organisations.c.key == fold(item.namespace))
        row = connection.execute(by_key).first()
        if row is None:
            create_organisation(connection, item.namespace, display_name=item.display_name, allow_reserved=True)
            row = connection.execute(by_key).one()
            done.organisations += 1
        found[item.namespace] = row
    return found


def _adapters(
    connection: Connection, catalogue: Catalogue, owners: dict[str, Any], serial: int, done: Imported
) -> dict[str, int]:
    """Adds adapters and versions; returns the id of each adapter by `@namespace/name`."""
    entries: dict[str, list[IndexEntry]] = {}
    for entry in catalogue.entries:
        entries.setdefault(entry.adapter, []).append(entry)
    ids: dict[str, int] = {}
    for item in catalogue.adapters:
        texts = {"description": item.description, "citation": item.citation or ""}
        for position, entry in enumerate(entries[item.adapter]):
            adapter_id, kept = upsert_adapter(connection, owners[item.namespace], entry, serial, **texts)
            ids[item.adapter] = adapter_id
            if not _add(connection, adapter_id, kept, serial, done):
                continue
            if position == 0 and _remember(connection, adapter_id, item):
                done.adapters += 1
    return ids


def _add(connection: Connection, adapter_id: int, entry: IndexEntry, serial: int, done: Imported) -> bool:
    """Add a version unless it is here; whether it was added."""
    existing = connection.execute(
        select(versions.c.line, versions.c.digest).where(
            versions.c.adapter_id == adapter_id, versions.c.version == entry.version
        )
    ).first()
    if existing is None:
        add_version(connection, adapter_id, entry, serial)
        done.versions += 1
        return True
    if [dict(file) for file in entry.files] == json.loads(existing.line).get("files"):
        done.known += 1
    else:
        done.conflicts.append(f"{entry.adapter}:{entry.version}")
    return False


def _remember(connection: Connection, adapter_id: int, item: AdapterRecord) -> bool:
    """Keep all that was recorded about an adapter, once."""
    if connection.execute(select(imported_records).where(imported_records.c.adapter_id == adapter_id)).first():
        return False
    document = item.model_dump(mode="json", exclude={"versions", "config"})
    document["authors"] = [item.author] if item.author else []
    document["dependencies"] = [
        {
            "reference": f"{found.adapter}:{found.version}" if found.version else found.adapter,
            "id": found.id,
            "description": found.description,
        }
        for found in item.dependencies
    ]
    document["notes"] = {version.version: version.description for version in item.versions if version.description}
    document["scores"] = {version.version: version.score for version in item.versions if version.score is not None}
    connection.execute(
        insert(imported_records).values(
            adapter_id=adapter_id, source="imported catalogue", document=json.dumps(document, ensure_ascii=False)
        )
    )
    return True


def _defaults(connection: Connection, catalogue: Catalogue, ids: dict[str, int], done: Imported) -> None:
    for (model, task, subtask), adapter in catalogue.defaults.items():
        key = {"model_name": model, "task_key": fold(task), "subtask_key": fold(subtask)}
        here = [pair_defaults.c[name] == value for name, value in key.items()]
        if adapter in ids and connection.execute(select(pair_defaults).where(*here)).first() is None:
            connection.execute(
                insert(pair_defaults).values(**key, model_bucket=model_bucket_of(model), adapter_id=ids[adapter])
            )
            done.defaults += 1


def _vocabulary(connection: Connection, catalogue: Catalogue, done: Imported) -> None:
    """Describe tasks and data sets, also those no adapter has yet; what is imported again replaces what was."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for task in catalogue.tasks:
        kind = "language" if task.type == "text_lang" else "task"
        rows[kind, fold(task.task), ""] = {
            "task": task.task,
            "subtask": "",
            "name": task.display_name or task.task,
            "description": _paragraph(task.description),
            "language": task.language or "",
        }
    for item in catalogue.subtasks:
        kind = "language" if item.type == "text_lang" else "task"
        rows[kind, fold(item.task), fold(item.subtask)] = {
            "task": item.task,
            "subtask": item.subtask,
            "name": item.display_name or titled(kind, item.task, item.subtask),
            "description": _paragraph(item.description),
            "url": item.url or "",
            "citation": item.citation or "",
            "language": ", ".join(item.languages),
            "metric": item.metric.name if item.metric else "",
            "dataset": item.hf_dataset or "",
        }
    blank = dict.fromkeys(("url", "citation", "language", "metric", "dataset"), "")
    complete = [
        {"kind": kind, "task_key": task_key, "subtask_key": subtask_key, **blank, **row}
        for (kind, task_key, subtask_key), row in rows.items()
    ]
    _replace(connection, vocabulary, ("kind", "task_key", "subtask_key"), complete)
    described = [
        {
            "name": item.name,
            "display_name": item.display_name,
            "description": _paragraph(item.description),
            "citation": item.citation or "",
        }
        for item in catalogue.architectures
    ]
    _replace(connection, architectures, ("name",), described)
    done.vocabulary = len(complete)


def _replace(connection: Connection, table: Any, key: Sequence[str], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        connection.execute(delete(table).where(*(table.c[name] == row[name] for name in key)))
    if rows:
        connection.execute(insert(table), rows)


def _paragraph(text: str) -> str:
    """One paragraph; the lines of `Script: …`, `iso: …` lists keep apart by semicolons."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1 and all(":" in line[:20] for line in lines):
        return "; ".join(lines)
    return " ".join(lines)
