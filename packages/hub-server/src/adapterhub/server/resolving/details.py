"""Everything the hub tells about one adapter and its versions."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, select

from adapterhub.server.accounts.viewer import Viewer
from adapterhub.server.resolving.history import adapter_row, is_own
from adapterhub.server.storage.records import entry_of
from adapterhub.server.storage.tables import manifests, version_files, versions
from adapterhub.spec.errors import VersionNotFoundError
from adapterhub.spec.resolution import default_entry

__all__ = ["adapter_details", "version_details"]


def adapter_details(connection: Connection, namespace: str, name: str, viewer: Viewer) -> dict[str, Any]:
    """The adapter, and its versions newest first."""
    row = adapter_row(connection, namespace, name, viewer)
    found = [version for version in _versions(connection, row.id) if _shown(version, row, viewer)]
    entries = [entry_of(version.line) for version in found if version.state == "published"]
    default = default_entry(entries)
    return {
        "namespace": row.namespace,
        "name": row.name,
        "reference": f"{row.task}/{row.subtask}@{row.namespace}" if row.task else f"@{row.namespace}/{row.name}",
        "adapter": f"@{row.namespace}/{row.name}",
        "model_name": row.model_name,
        "task": row.task,
        "subtask": row.subtask,
        "type": row.type,
        "method": row.method,
        "using": row.using,
        "license": row.license,
        "language": row.language,
        "description": row.description,
        "card": row.card,
        "citation": row.citation,
        "default_version": default.version if default else None,
        "downloads": row.downloads,
        "private": row.private,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "versions": [_version(version) for version in reversed(found)],
    }


def version_details(connection: Connection, namespace: str, name: str, version: str, viewer: Viewer) -> dict[str, Any]:
    """One version, with its manifest where there is one."""
    row = adapter_row(connection, namespace, name, viewer)
    found = [item for item in _versions(connection, row.id) if _shown(item, row, viewer)]
    chosen = next((item for item in found if item.version == version), None)
    if chosen is None:
        raise VersionNotFoundError(
            f"@{row.namespace}/{row.name} has no version {version!r}.",
            candidates=[item.version for item in found if item.state == "published"],
        )
    body = connection.execute(select(manifests.c.body).where(manifests.c.digest == chosen.digest)).scalar_one_or_none()
    gone = chosen.state in ("deleted", "quarantined")
    files = connection.execute(
        select(version_files).where(version_files.c.version_id == chosen.id).order_by(version_files.c.path)
    )
    return {
        "namespace": row.namespace,
        "name": row.name,
        **_version(chosen),
        "entry": None if gone else json.loads(chosen.line),
        "manifest": None if gone or body is None else json.loads(body),
        "files": []
        if gone
        else [
            {"path": file.path, "digest": file.digest, "size": file.size, "media_type": file.media_type}
            for file in files
        ],
    }


def _versions(connection: Connection, adapter_id: int) -> list[Row[Any]]:
    return list(
        connection.execute(select(versions).where(versions.c.adapter_id == adapter_id).order_by(versions.c.serial))
    )


def _version(row: Row[Any]) -> dict[str, Any]:
    entry = json.loads(row.line)
    return {
        "version": row.version,
        "digest": row.digest,
        "state": row.state,
        "reason": row.reason,
        "yanked": row.yanked,
        "yanked_reason": row.yanked_reason or None,
        "status": entry.get("status", "available"),
        "config_id": row.config_id or None,
        "size": row.size,
        "created_at": row.created_at,
        "published_at": row.published_at,
    }


def _shown(version: Row[Any], adapter: Row[Any], viewer: Viewer) -> bool:
    """Tombstones are for everybody; what waits or was refused only for the organisation."""
    return version.published_at is not None or is_own(adapter, viewer)
