"""Reads the catalogue: one adapter with its versions, a publisher, and the hub in figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, func, select

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.catalogue.listings import shown_version
from adapterhub.server.catalogue.tables import (
    architectures,
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
    FileView,
    HubCounts,
    MetricView,
    TensorView,
    VersionView,
)
from adapterhub.server.search.question import read_cursor, write_cursor
from adapterhub.server.search.service import summary_of
from adapterhub.server.storage.tables import adapters, manifests, organisations, tokens, versions
from adapterhub.spec.errors import AdapterNotFoundError, VersionNotFoundError
from adapterhub.spec.presets import load_preset, preset_documents
from adapterhub.spec.reference import fold

__all__ = ["adapter_detail", "hub_counts", "namespace_adapters"]


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
    """What the spec and the vocabulary know about the adapter's architecture and data set."""
    summary = detail.summary
    preset = preset_documents().get(summary.using or "", {})
    known = connection.execute(select(architectures).where(architectures.c.name == (summary.using or ""))).first()
    data = connection.execute(
        select(vocabulary.c.citation).where(
            vocabulary.c.kind == summary.kind,
            vocabulary.c.task_key == fold(summary.task),
            vocabulary.c.subtask_key == fold(summary.subtask),
        )
    ).scalar_one_or_none()
    architecture = (known.citation if known else "") or preset.get("citation", "")
    cited = (("the architecture", architecture), ("the data set", data or ""))
    return dataclasses.replace(
        detail,
        architecture=preset.get("description") or (known.description if known else ""),
        changes=_changes(summary.using, detail.config) if preset else {},
        more_citations=tuple((what, text) for what, text in cited if text.strip() and text.strip() != detail.citation),
    )


def _changes(preset: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that are not as in its preset."""
    usual = load_preset(preset or "").expand()
    return {name: value for name, value in config.items() if name in usual and usual[name] != value}


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
    if organisation is None or (organisation.private and not viewer.knows(organisation.id)):
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
        .order_by(facet_counts.c.adapters.desc(), facet_counts.c.value)
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
