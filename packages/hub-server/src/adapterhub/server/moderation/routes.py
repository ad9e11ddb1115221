"""Yank, default, deletion, review, quarantine and the audit log over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from adapterhub.server.accounts.organisations import find_organisation
from adapterhub.server.dependencies import Bearer, SettingsOf, StorageOf, ViewerOf
from adapterhub.server.moderation import service
from adapterhub.server.moderation.audit import read_audit

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["moderation"], dependencies=[Depends(Bearer)])

Namespace = Annotated[str, Path(max_length=64)]
Name = Annotated[str, Path(max_length=128)]
_VERSION = "/adapters/@{namespace}/{name}/versions/{version}"


class Reason(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=2000)


class DefaultVersion(BaseModel):
    """The version a reference without one means; null for the newest that is not yanked."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[str, Field(max_length=128)] | None = None


class Texts(BaseModel):
    """Texts for people; what is left out stays."""

    model_config = ConfigDict(extra="forbid")
    description: Annotated[str, Field(max_length=100_000)] | None = None
    card: Annotated[str, Field(max_length=100_000)] | None = None
    citation: Annotated[str, Field(max_length=100_000)] | None = None


@router.post(_VERSION + "/yank", summary="Withdraw a version from resolution")
def yank(
    storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name, body: Reason | None = None
) -> dict[str, Any]:
    """Its bytes stay for those who pinned it."""
    reason = body.reason if body else ""
    return service.yank(storage, viewer, namespace, name, version, undo=False, reason=reason)


@router.post(_VERSION + "/unyank", summary="Bring a yanked version back")
def unyank(
    storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name, body: Reason | None = None
) -> dict[str, Any]:
    """As if it had never been yanked; the audit log knows."""
    return service.yank(storage, viewer, namespace, name, version, undo=True)


@router.delete(_VERSION, summary="Delete a version, within 72 hours")
def delete(
    storage: StorageOf,
    settings: SettingsOf,
    viewer: ViewerOf,
    namespace: Namespace,
    name: Name,
    version: Name,
    reason: Annotated[str, Query(max_length=500)] = "",
) -> dict[str, Any]:
    """The name of the version stays used: a tombstone says that there was one."""
    return service.delete_version(storage, settings, viewer, namespace, name, version, reason)


@router.post(_VERSION + "/approve", summary="Approve a submission")
def approve(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name) -> dict[str, Any]:
    """Publishes it at once. Needs the scope `review`, and another token than the submitter's."""
    return service.decide(storage, viewer, namespace, name, version, approve=True)


@router.post(_VERSION + "/refuse", summary="Refuse a submission")
def refuse(
    storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name, body: Reason
) -> dict[str, Any]:
    """With a reason, which the submitter sees."""
    return service.decide(storage, viewer, namespace, name, version, approve=False, reason=body.reason)


@router.post(_VERSION + "/quarantine", summary="Hide a version while it is looked into (operators)")
def quarantine(
    storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name, body: Reason
) -> dict[str, Any]:
    """Neither resolved nor downloadable until released."""
    return service.quarantine(storage, viewer, namespace, name, version, undo=False, reason=body.reason)


@router.post(_VERSION + "/release", summary="End a quarantine (operators)")
def release(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, version: Name) -> dict[str, Any]:
    """The version is there again."""
    return service.quarantine(storage, viewer, namespace, name, version, undo=True)


@router.post("/adapters/@{namespace}/{name}/default", summary="Choose the default version")
def default_version(
    storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, body: DefaultVersion
) -> dict[str, Any]:
    """What a reference without a version means."""
    return service.set_default_version(storage, viewer, namespace, name, body.version)


@router.put(
    "/adapters/@{namespace}/{name}/default-for-task", summary="Make it the answer for its model, task and subtask"
)
def default_adapter(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name) -> dict[str, Any]:
    """Where several adapters would answer, this one does."""
    return service.set_pair_default(storage, viewer, namespace, name)


@router.delete("/adapters/@{namespace}/{name}/default-for-task", summary="Take that back")
def no_default_adapter(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name) -> dict[str, Any]:
    """The reference is ambiguous again where several adapters answer."""
    return service.set_pair_default(storage, viewer, namespace, name, clear=True)


@router.patch("/adapters/@{namespace}/{name}", summary="Edit the texts for people")
def edit(storage: StorageOf, viewer: ViewerOf, namespace: Namespace, name: Name, body: Texts) -> dict[str, Any]:
    """Description, card and citation; manifests never change."""
    changes = {key: value for key, value in body.model_dump(exclude_unset=True).items() if value is not None}
    return service.edit_texts(storage, viewer, namespace, name, changes)


@router.get("/organisations/{organisation}/reviews", summary="Submissions that wait for a decision")
def reviews(storage: StorageOf, viewer: ViewerOf, organisation: Namespace) -> dict[str, Any]:
    """Oldest first."""
    viewer.require("review")
    with storage.database.read() as connection:
        row = find_organisation(connection, organisation, viewer)
        return {"items": service.review_queue(connection, viewer, row.id)}


@router.get("/audit", summary="The audit log")
def audit(
    storage: StorageOf,
    viewer: ViewerOf,
    since: Annotated[int, Query(ge=0, le=2**53, description="Serial after which to start")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Append-only; each row carries the hash of the one before. Of what is private, outsiders get the hashes alone."""
    with storage.database.read() as connection:
        rows = read_audit(connection, viewer, since, limit)
    return {"items": rows, "next": rows[-1]["serial"] if len(rows) == limit else None}
