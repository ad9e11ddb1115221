"""Submissions that wait for a reviewer, and reports that something is wrong with a version."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from adapterhub.client.files import storage_errors, write_atomically
from adapterhub.client.transport import Transport
from adapterhub.spec.errors import IntegrityError, InvalidReferenceError, StorageError, VersionNotFoundError
from adapterhub.spec.reference import AdapterReference

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


def fetch_submission(transport: Transport, reference: AdapterReference, folder: Path) -> dict[str, Any]:
    """Bring the files of a submission into a new folder, every one hashed; returns its manifest.

    Raises:
        StorageError: the folder is there already, or cannot be written.
        VersionNotFoundError: there is no such submission, or it has no files.
        IntegrityError: bytes that are not what the manifest says; nothing of that file is written.
    """
    from adapterhub.spec.manifest import Manifest

    told = transport.request("GET", _place(reference)).json()
    digest = str(told.get("digest") or "") if isinstance(told, dict) else ""
    if not digest:
        raise VersionNotFoundError(f"@{reference.namespace}/{reference.name}:{reference.version} has no files.")
    body = transport.request("GET", f"/v1/manifests/{digest}").body
    _check(body, digest, "the manifest")
    manifest = Manifest.from_bytes(body)
    if folder.exists():
        raise StorageError(f"{folder} exists already.", hint=_ELSEWHERE)
    for record in manifest.files:
        data = transport.request("GET", f"/v1/blobs/{record.digest}", cap=record.size).body
        _check(data, record.digest, record.path)
        path = folder / PurePosixPath(record.path)  # the manifest's schema allows no path out of the folder
        with storage_errors(path, _ELSEWHERE):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, otherwise=_ELSEWHERE)
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


def _check(data: bytes, digest: str, what: str) -> None:
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        raise IntegrityError(f"The hub sent other bytes for {what} than {digest}.")
