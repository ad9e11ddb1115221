"""Folder → all problems at once → only the files the hub lacks, resumable → one manifest that makes the version appear.

Nothing can be seen on the hub before the last step, and the last step is one request. Doing it all again sends nothing
and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.files import discard, write_atomically
from adapterhub.client.progress import transfer_display
from adapterhub.client.settings import Hub, is_loopback
from adapterhub.client.transport import Transport
from adapterhub.spec.errors import (
    AdapterNotFoundError,
    AuthenticationError,
    HubConnectionError,
    IntegrityError,
    InvalidManifestError,
    InvalidReferenceError,
    StorageError,
    ValidationFailedError,
)
from adapterhub.spec.reference import AdapterReference, format_reference

if TYPE_CHECKING:
    from adapterhub.spec.manifest import FileRecord, Manifest

__all__ = ["PublishResult", "prepare", "publish_folder", "yank_version"]

#: bytes sent in one request; what is lost at most when a connection breaks
PIECE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What publishing did, or would do.

    Attributes:
        reference: `@namespace/name:version`, to write down.
        full_id: `task/subtask@namespace`.
        digest: of the manifest.
        created: False if exactly this was there before, or for a dry run.
        state: `published`, `pending` (reviewers have to agree first) or `dry-run`.
        sent: digests of the files that were sent; for a dry run, those that would be.
        sent_bytes: their bytes.
        skipped: digests the hub had already.
        url, page: addresses of the version; None for a dry run.
        warnings: what the validator remarked.
        manifest: the manifest, JSON types.
    """

    reference: str
    full_id: str
    digest: str
    created: bool
    state: str
    sent: tuple[str, ...] = ()
    sent_bytes: int = 0
    skipped: tuple[str, ...] = ()
    url: str | None = None
    page: str | None = None
    warnings: tuple[Mapping[str, Any], ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON types."""
        return {
            "reference": self.reference,
            "full_id": self.full_id,
            "digest": self.digest,
            "created": self.created,
            "state": self.state,
            "sent": list(self.sent),
            "sent_bytes": self.sent_bytes,
            "skipped": list(self.skipped),
            "url": self.url,
            "page": self.page,
            "warnings": [dict(item) for item in self.warnings],
            "manifest": dict(self.manifest),
        }


def prepare(
    folder: Path, reference: AdapterReference, *, version: str | None, name: str | None, metadata: Mapping[str, Any]
) -> tuple[Manifest, list[dict[str, Any]]]:
    """The manifest of a folder, and the validator's warnings. The same checks as the hub's.

    Raises:
        ValidationFailedError: every problem of the folder and of the metadata.
    """
    from adapterhub.spec.manifest import build_manifest
    from adapterhub.spec.validate import validate_path

    if reference.digest is not None:
        raise InvalidReferenceError(
            "A digest comes out of publishing; it cannot be given.", hint="Leave @sha256:… out."
        )
    if reference.word is not None:
        raise InvalidReferenceError(
            f"{format_reference(reference)!r} is not enough to publish under.",
            hint="Give task/subtask@namespace, or @namespace/name.",
        )
    if not folder.is_dir():
        raise ValidationFailedError(
            f"{folder} is no folder.",
            hint="Give the folder that save_adapter wrote.",
            problems=[{"pointer": "", "message": "no such folder", "severity": "error"}],
        )
    found = [problem.to_json() for problem in validate_path(folder)]
    problems = [problem for problem in found if problem.get("severity", "error") == "error"]
    bare = format_reference(
        AdapterReference(
            namespace=reference.namespace,
            name=reference.name,
            task=reference.task,
            subtask=reference.subtask,
            version=reference.version,
        )
    )
    manifest: Manifest | None = None
    try:
        given = {key: value for key, value in metadata.items() if value is not None}
        manifest = build_manifest(folder, reference=bare, version=version, name=name, **given)
    except ValidationFailedError as error:
        known = [json.dumps(item, sort_keys=True) for item in problems]
        problems += [item for item in error.problems if json.dumps(item, sort_keys=True) not in known]
    except InvalidManifestError as error:
        problems += list(
            error.details.get("problems") or [{"pointer": "", "message": error.message, "hint": error.hint}]
        )
    if problems or manifest is None:
        raise ValidationFailedError(
            f"{folder} cannot be published: {len(problems)} problem{'s' if len(problems) != 1 else ''}.",
            hint="Nothing was sent.",
            problems=problems,
        )
    return manifest, [problem for problem in found if problem not in problems]


def publish_folder(
    folder: Path,
    reference: AdapterReference,
    *,
    version: str | None,
    name: str | None,
    hub: Hub,
    transport: Transport,
    state_folder: Path,
    dry_run: bool,
    show: bool,
    metadata: Mapping[str, Any],
) -> PublishResult:
    """See `HubClient.publish`."""
    from adapterhub.client.card import CARD, write_card

    carded = write_card(folder, reference, metadata)
    published = False
    try:
        manifest, warnings = prepare(folder, reference, version=version, name=name, metadata=metadata)
        published = not dry_run
    finally:
        if carded and not published:  # looking leaves the folder as it was
            discard(folder / CARD)
    if not hub.url.startswith("https://") and not is_loopback(hub.url):
        transport.token(hub.origin)  # says why, before anything is read
    records = {record.digest: record for record in manifest.files}
    missing, skipped = _missing(transport, records)
    result = PublishResult(
        reference=f"@{manifest.namespace}/{manifest.name}:{manifest.version}",
        full_id=manifest.full_id,
        digest=manifest.digest,
        created=False,
        state="dry-run",
        sent=tuple(missing),
        sent_bytes=sum(records[digest].size for digest in missing),
        skipped=tuple(skipped),
        warnings=tuple(warnings),
        manifest=manifest.to_json(),
    )
    if dry_run:
        return result
    if transport.token(hub.origin) is None:
        raise AuthenticationError(
            f"Publishing to {hub.url} needs a token, and there is none.",
            hint="Run: adapterhub login, or set ADAPTERHUB_TOKEN.",
        )
    _send_all(transport, folder, records, missing, state_folder, show, manifest.name)
    body = {"manifest": manifest.to_json()}
    try:
        answer = transport.request("POST", "/v1/publish", json=body)
    except ValidationFailedError as error:
        if not skipped or not _about_blobs(error):
            raise
        # the hub has some of these bytes but not for this organisation: send them too
        _send_all(transport, folder, records, skipped, state_folder, show, manifest.name)
        missing, skipped = [*missing, *skipped], []
        answer = transport.request("POST", "/v1/publish", json=body)
    told = answer.json()
    if not isinstance(told, dict):
        raise HubConnectionError(f"{hub.url} does not say what became of the publish.", hint="Try again; that is safe.")
    if told.get("digest") not in (None, manifest.digest):
        raise IntegrityError(
            f"The hub stored {told.get('digest')} instead of {manifest.digest}.", hint="Tell who runs the hub."
        )
    return PublishResult(
        reference=result.reference,
        full_id=str(told.get("full_id") or manifest.full_id),
        digest=manifest.digest,
        created=answer.status == 201,
        state=str(told.get("state") or "published"),
        sent=tuple(missing),
        sent_bytes=sum(records[digest].size for digest in missing),
        skipped=tuple(skipped),
        url=told.get("url"),
        page=told.get("page"),
        warnings=result.warnings,
        manifest=result.manifest,
    )


def yank_version(
    transport: Transport, reference: AdapterReference, *, version: str | None, reason: str, undo: bool
) -> dict[str, Any]:
    """Withdraw a version, or bring it back."""
    wanted = version or reference.version
    if reference.name is None or wanted is None:
        raise InvalidReferenceError(
            "Only one version of one adapter can be yanked.", hint="Give it as @namespace/name:version."
        )
    action = "unyank" if undo else "yank"
    answer = transport.request(
        "POST",
        f"/v1/adapters/@{reference.namespace}/{reference.name}/versions/{wanted}/{action}",
        json={} if undo else {"reason": reason},
    )
    told = answer.json() if answer.body else {}
    return told if isinstance(told, dict) else {}


def _about_blobs(error: ValidationFailedError) -> bool:
    return any(
        "/files" in str(problem.get("pointer", "")) for problem in error.problems if isinstance(problem, Mapping)
    )


def _missing(transport: Transport, records: Mapping[str, FileRecord]) -> tuple[list[str], list[str]]:
    """Digests the hub lacks, and those it has."""
    missing, there = [], []
    for digest, record in records.items():
        answer = transport.request("HEAD", f"/v1/blobs/{digest}", accept=(404,))
        length = answer.headers.get("content-length", "")
        if answer.status == 404 or (length.isdigit() and int(length) not in (0, record.size)):
            missing.append(digest)
        else:
            there.append(digest)
    return missing, there


def _send_all(
    transport: Transport,
    folder: Path,
    records: Mapping[str, FileRecord],
    digests: list[str],
    state_folder: Path,
    show: bool,
    title: str,
) -> None:
    total = sum(records[digest].size for digest in digests)
    with transfer_display(f"sending {title}", total, enabled=show) as advance:
        for digest in digests:
            record = records[digest]
            _send(transport, folder / record.path, digest, record.size, state_folder, advance)


def _send(
    transport: Transport, path: Path, digest: str, size: int, state_folder: Path, advance: Callable[[int], None]
) -> None:
    """Send one file, going on where an earlier attempt stopped.

    Raises:
        IntegrityError: the file changed while it was being sent, or the hub received other bytes.
    """
    key = hashlib.sha256(f"{transport.base} {digest}".encode()).hexdigest()
    note = state_folder / f"{key}.json"
    location = _read_note(note)
    if location is not None and _offset(transport, location) is None:
        location = None
    begun = location is None
    if location is None:
        location = _begin(transport)
        _write_note(note, location)
    sent = 0

    def once() -> None:
        nonlocal sent, begun
        at, begun = (0 if begun else _offset(transport, location)), False
        if at is None:
            raise HubConnectionError(f"{transport.base} forgot the upload of {path.name}.", hint="Publish again.")
        advance(at - sent)
        sent = at
        with path.open("rb") as stream:
            stream.seek(at)
            while at < size:
                piece = stream.read(min(PIECE, size - at))
                if not piece:
                    raise IntegrityError(f"{path} became shorter while it was being sent.", hint="Publish again.")
                headers = {"upload-offset": str(at), "content-type": "application/octet-stream"}
                transport.request("PATCH", location, content=piece, headers=headers, retry=False)
                at += len(piece)
                advance(len(piece))
                sent = at

    transport.repeat(once, progressed=lambda: sent)
    try:
        transport.request("PUT", f"{location}?digest={digest}")
    except AdapterNotFoundError:
        if transport.request("HEAD", f"/v1/blobs/{digest}", accept=(404,)).status == 404:
            raise
    except (ValidationFailedError, IntegrityError) as error:
        raise IntegrityError(
            f"The hub received other bytes of {path.name} than were read: the file changed, or the way is broken.",
            hint="The upload was thrown away there. Publish again.",
        ) from error
    finally:
        discard(note)


def _begin(transport: Transport) -> str:
    answer = transport.request("POST", "/v1/uploads")
    location = answer.headers.get("location") or str(answer.json().get("location", ""))
    for prefix in (transport.base, ""):
        rest = location.removeprefix(prefix) if prefix else location
        if rest.startswith("/v1/uploads/"):
            return rest
    raise HubConnectionError(f"{transport.base} gives an upload no place on itself.", hint="The hub is set up wrongly.")


def _offset(transport: Transport, location: str) -> int | None:
    """How many bytes have arrived; None if the hub does not know the upload."""
    answer = transport.request("HEAD", location, accept=(404, 410))
    told = answer.headers.get("upload-offset", "")
    return int(told) if answer.status < 300 and told.isdigit() else None


def _read_note(note: Path) -> str | None:
    try:
        location = json.loads(note.read_bytes())["location"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return location if isinstance(location, str) and location.startswith("/v1/uploads/") else None


def _write_note(note: Path, location: str) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, json.dumps({"location": location}).encode(), durable=False)
    except (OSError, StorageError):
        pass  # without the note a broken upload starts again from the beginning
