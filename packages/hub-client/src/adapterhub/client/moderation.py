"""Submissions that wait for a reviewer, and reports that something is wrong with a version."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from adapterhub.client.files import remove_tree, storage_errors
from adapterhub.client.owners import unique_name
from adapterhub.client.transport import Transport
from adapterhub.spec.errors import IntegrityError, InvalidReferenceError, StorageError, VersionNotFoundError
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.reference import AdapterReference

if TYPE_CHECKING:
    from adapterhub.client.sources.hub import HubSource

_ELSEWHERE = "Give a new folder with --to."

__all__ = ["decide", "fetch_submission", "report", "submissions"]


def submissions(transport: Transport, organisation: str) -> list[dict[str, Any]]:
    """What waits for a decision in an organisation, oldest first. The token needs the scope `review`."""
    told = transport.request("GET", f"/v1/organisations/{quote(organisation, safe='')}/reviews").json()
    found = told.get("items") if isinstance(told, dict) else None
    return [item for item in found or () if isinstance(item, dict)]


def decide(transport: Transport, reference: AdapterReference, *, approve: bool, reason: str = "") -> dict[str, Any]:
    """Publish a submission, or refuse it with a reason, which its author sees."""
    action, body = ("approve", {}) if approve else ("refuse", {"reason": reason})
    told = transport.request("POST", f"{_place(reference)}/{action}", json=body).json()
    return told if isinstance(told, dict) else {}


def fetch_submission(
    source: HubSource, reference: AdapterReference, folder: Path, *, show: bool = True
) -> dict[str, Any]:
    """Bring the files of a submission into a new folder, every one hashed on the way; returns its manifest. The folder
    appears when all of it is there.

    Args:
        source: the hub it waits at.
        show: a progress bar, on a terminal.

    Raises:
        StorageError: the folder is there already, or cannot be written.
        VersionNotFoundError: there is no such submission, or it has no files.
        IntegrityError: bytes that are not what the manifest says.
    """
    from adapterhub.client.cache import Cache
    from adapterhub.client.downloads import fetch
    from adapterhub.spec.manifest import Manifest

    told = source.transport.request("GET", _place(reference)).json()
    digest = str(told.get("digest") or "") if isinstance(told, dict) else ""
    if not digest:
        raise VersionNotFoundError(f"@{reference.namespace}/{reference.name}:{reference.version} has no files.")
    body = source.manifest(digest)
    if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
        raise IntegrityError(f"The hub sent other bytes for the manifest than {digest}.")
    manifest = Manifest.from_bytes(body)
    if folder.exists():
        raise StorageError(f"{folder} exists already.", hint=_ELSEWHERE)
    entry = IndexEntry(
        namespace=str(reference.namespace),
        name=str(reference.name),
        version=str(reference.version),
        model_name=manifest.base_model.name,
        task="",
        subtask="",
        digest=digest,
        status="available",
    )
    # a cache of its own: submissions stay out of the user's
    work = folder.with_name(f".{folder.name}.{unique_name()}.tmp")
    try:
        with storage_errors(folder.absolute().parent, _ELSEWHERE):
            folder.absolute().parent.mkdir(parents=True, exist_ok=True)
            found = fetch(entry, source=lambda: source, cache=Cache(work), hub=source.hub, offline=False, show=show)
            for path in found.rglob("*"):
                if path.is_file():
                    path.chmod(0o644)
            os.rename(found, folder)
    finally:
        remove_tree(work)
    return manifest.to_json()


def report(transport: Transport, reference: AdapterReference, kind: str, text: str) -> dict[str, Any]:
    """Tell the publisher of a version and the operators of its hub that something is wrong with it."""
    body = {"kind": kind, "text": text}
    told = transport.request("POST", f"{_place(reference)}/reports", json=body, retry=False).json()
    return told if isinstance(told, dict) else {}


def _place(reference: AdapterReference) -> str:
    if reference.name is None or reference.version is None:
        raise InvalidReferenceError(
            "This is about one version of one adapter.", hint="Give it as @namespace/name:version."
        )
    parts = (reference.name, "versions", reference.version)
    return f"/v1/adapters/@{reference.namespace}/" + "/".join(quote(part, safe="") for part in parts)
