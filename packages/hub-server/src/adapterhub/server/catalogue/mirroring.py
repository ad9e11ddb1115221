"""Brings bytes to imported versions: from a folder, or from addresses under a prefix that an administrator names.

An address in metadata is never followed by itself. Only recorded addresses that begin with a named prefix are asked for,
redirects are not followed, and nothing is kept that does not have the recorded SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, insert, select, update

from adapterhub.server.catalogue.archives import convert, unpack
from adapterhub.server.catalogue.tables import imported_records
from adapterhub.server.moderation.audit import record
from adapterhub.server.publishing.checks import content_problems, readme_of
from adapterhub.server.publishing.service import entry_for
from adapterhub.server.publishing.uploads import insert_missing
from adapterhub.server.storage import Storage
from adapterhub.server.storage.changes import project
from adapterhub.server.storage.database import next_serial
from adapterhub.server.storage.records import touch
from adapterhub.server.storage.tables import (
    adapters,
    blob_owners,
    blobs,
    manifests,
    now,
    organisations,
    version_files,
    versions,
)
from adapterhub.spec.errors import (
    AdapterHubError,
    HubConnectionError,
    IntegrityError,
    InvalidConfigError,
    InvalidManifestError,
    ValidationFailedError,
)
from adapterhub.spec.manifest import Manifest, build_manifest

__all__ = ["CONVERTER", "Mirrored", "check_converter", "mirror"]

#: writes a native folder from an old one; runs as a process of its own, where adapterhub-core is installed
CONVERTER = (sys.executable, "-m", "adapterhub.core", "convert")
MAX_ARCHIVE = 2 * 1024**3


@dataclasses.dataclass(slots=True)
class Mirrored:
    """What a mirror run did: versions that have their bytes now, and those that do not, with the reason."""

    filled: list[str] = dataclasses.field(default_factory=list)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: int = 0

    def to_json(self) -> dict[str, Any]:
        """Every member."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """An unavailable version with the archive recorded for it."""

    row: Any
    line: Mapping[str, Any]
    url: str
    sha256: str

    @property
    def name(self) -> str:
        return f"@{self.row.namespace}/{self.row.name}:{self.row.version}"


def check_converter(command: Sequence[str]) -> None:
    """Raise InvalidConfigError, before anything is fetched, where the usual converter is not installed."""
    if tuple(command) == CONVERTER and importlib.util.find_spec("adapterhub.core") is None:
        raise InvalidConfigError(
            "Archives of the old hub hold pickles, which only adapterhub-core converts, and it is not installed here.",
            hint="Install it beside the server (pip install adapterhub-core), run mirror where it is, with the same "
            "--database-url and --blob-store, or name another program with --converter.",
        )


def mirror(
    storage: Storage,
    sources: Sequence[str],
    *,
    namespace: str | None = None,
    models: Path | None = None,
    converter: Sequence[str] = CONVERTER,
    tell: Callable[[str], None] = lambda text: None,
    actor: str = "operator",
) -> Mirrored:
    """Fill what is unavailable. One version after the other, each in its own transaction.

    Args:
        sources: folders (archives are known by their digest, whatever their names), address prefixes
            (`https://example.org/AdapterHub/`), or `RECORDED-PREFIX=OTHER-PREFIX` for bytes that moved.
        namespace: only this publisher's.
        models: folder with a folder per base model, whose config.json tells the shape; default: what the archive says.
        converter: program that writes a native folder from an old one.
        tell: is told of each version.

    Raises:
        InvalidConfigError: a source that is neither a folder nor an http(s) prefix.
    """
    folders, prefixes = _sources(sources)
    done = Mirrored()
    with storage.database.read() as connection:
        wanted = list(_wanted(connection, namespace))
    known = _archives_in(folders, {item.sha256 for item in wanted})
    with httpx.Client(follow_redirects=False, timeout=60, trust_env=False) as http:
        for item in wanted:
            address = next((new + item.url[len(old) :] for old, new in prefixes if item.url.startswith(old)), None)
            if item.sha256 not in known and address is None:
                done.absent += 1
                continue
            try:
                with tempfile.TemporaryDirectory(prefix="adapterhub-mirror-") as place:
                    archive = known.get(item.sha256) or _fetch(
                        http, str(address), Path(place) / "archive.zip", item.sha256
                    )
                    _fill(storage, item, archive, Path(place), models, converter, actor)
            except AdapterHubError as error:
                done.refused[item.name] = error.message
                tell(f"refused  {item.name}: {error.message}")
            else:
                done.filled.append(item.name)
                tell(f"filled   {item.name}")
    return done


def _sources(sources: Sequence[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    folders: list[Path] = []
    prefixes: list[tuple[str, str]] = []
    for source in sources:
        old, _, new = source.partition("=")
        if old.startswith(("http://", "https://")) and (not new or new.startswith(("http://", "https://"))):
            prefixes.append((old, new or old))
        elif Path(source).is_dir():
            folders.append(Path(source))
        else:
            raise InvalidConfigError(
                f"{source!r} is neither a folder nor an address prefix.",
                hint="Give a folder with archives, https://HOST/PATH/, or RECORDED-PREFIX=OTHER-PREFIX.",
            )
    return folders, prefixes


def _wanted(connection: Connection, namespace: str | None) -> Iterator[_Wanted]:
    query = (
        select(
            versions.c.id, versions.c.adapter_id, versions.c.version, versions.c.line, adapters.c.name,
            adapters.c.organisation_id, organisations.c.name.label("namespace"),
        )
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(organisations, organisations.c.id == adapters.c.organisation_id)
        .where(versions.c.digest.is_(None), versions.c.state == "published")
        .order_by(versions.c.id)
    )  # fmt: skip
    if namespace:
        query = query.where(organisations.c.name == namespace.removeprefix("@"))
    for row in connection.execute(query):
        line = json.loads(row.line)
        for file in line.get("files") or ():
            if file.get("sha256") and file.get("url"):
                yield _Wanted(row, line, file["url"], file["sha256"])
                break


def _archives_in(folders: Sequence[Path], wanted: set[str]) -> dict[str, Path]:
    """The files in the folders whose digest is wanted, by digest."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                digest = _sha256(path)
                if digest in wanted:
                    found[digest] = path
    return found


def _sha256(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()


def _fetch(http: httpx.Client, address: str, path: Path, sha256: str) -> Path:
    """The archive at an address, hashed while it comes.

    Raises:
        HubConnectionError: no answer, a redirect, an error, or too much.
        IntegrityError: other bytes than recorded.
    """
    hashed, size = hashlib.sha256(), 0
    try:
        with http.stream("GET", address) as answer, path.open("xb") as file:
            if answer.status_code != 200:
                raise HubConnectionError(f"{address} answers with {answer.status_code}.")
            for piece in answer.iter_raw(1 << 20):
                size += len(piece)
                if size > MAX_ARCHIVE:
                    raise HubConnectionError(f"{address} is larger than {MAX_ARCHIVE:,} bytes.")
                hashed.update(piece)
                file.write(piece)
    except httpx.HTTPError as error:
        raise HubConnectionError(f"{address} cannot be fetched: {type(error).__name__}.") from None
    if hashed.hexdigest() != sha256:
        raise IntegrityError(f"{address} has the digest {hashed.hexdigest()[:12]}…, recorded is {sha256[:12]}….")
    return path


def _fill(
    storage: Storage, item: _Wanted, archive: Path, place: Path, models: Path | None, converter: Sequence[str], actor: str
) -> None:  # fmt: skip
    """Unpack, convert, check, and make the version available."""
    unpacked, native = place / "unpacked", place / "native"
    unpacked.mkdir()
    unpack(archive, unpacked)
    model = models / item.line["model_name"] if models is not None else None
    convert(converter, unpacked, native, str(model) if model is not None and model.is_dir() else None)
    manifest = _manifest(storage, item, native)
    sizes = {}
    for file in manifest.files:
        digest = storage.blobs.put((native / file.path).read_bytes())
        if digest != file.digest:
            raise IntegrityError(f"{file.path} changed while it was read.")
        sizes[digest] = file.size
    problems = content_problems(storage.blobs, manifest)
    if problems:
        raise ValidationFailedError(f"The converted adapter is refused: {problems[0]}", problems=problems)
    with storage.database.write() as connection:
        _commit(connection, item, manifest, readme_of(storage.blobs, manifest), actor)


def _manifest(storage: Storage, item: _Wanted, native: Path) -> Manifest:
    with storage.database.read() as connection:
        owner = connection.execute(select(adapters).where(adapters.c.id == item.row.adapter_id)).one()
        found = connection.execute(
            select(imported_records.c.document).where(imported_records.c.adapter_id == item.row.adapter_id)
        ).scalar_one_or_none()
    known = json.loads(found) if found else {}
    try:
        return build_manifest(
            native,
            namespace=item.row.namespace,
            name=item.row.name,
            version=item.row.version,
            task=owner.task,
            subtask=owner.subtask,
            type=owner.type,
            model_name=owner.model_name,
            languages=[owner.language] if owner.language else [],
            description=owner.description,
            citation=owner.citation,
            authors=known.get("authors") or [],
            dependencies=[
                {"reference": found["reference"], "description": found["description"] or None}
                for found in known.get("dependencies") or ()
            ],
        )
    except InvalidManifestError as error:
        raise ValidationFailedError(error.message, problems=error.details.get("problems") or []) from None


def _commit(connection: Connection, item: _Wanted, manifest: Manifest, card: str, actor: str) -> None:
    """Give the version its manifest and files; everything else about it stays as it is."""
    serial = next_serial(connection)
    row = connection.execute(select(versions).where(versions.c.id == item.row.id)).one()
    if row.digest is not None:
        return  # somebody else was faster
    old = json.loads(row.line)
    entry = dataclasses.replace(
        entry_for(manifest, manifest.digest),
        default_version=old.get("default_version"),
        yanked=row.yanked,
        yanked_reason=row.yanked_reason or None,
        legacy_config_id=old.get("legacy_config_id"),
        files=tuple(old.get("files") or ()),
    )
    insert_missing(connection, manifests, {"digest": manifest.digest, "body": manifest.canonical_bytes()})
    for file in manifest.files:
        insert_missing(connection, blobs, {"digest": file.digest, "size": file.size, "created_at": now()})
        owner = {"digest": file.digest, "organisation_id": item.row.organisation_id, "created_at": now()}
        insert_missing(connection, blob_owners, owner)
    connection.execute(
        insert(version_files),
        [
            {"version_id": row.id, **{name: getattr(file, name) for name in ("path", "digest", "size", "media_type")}}
            for file in manifest.files
        ],
    )
    connection.execute(
        update(versions)
        .where(versions.c.id == row.id)
        .values(
            digest=manifest.digest, line=entry.to_json_line(), config_id=manifest.config_id, size=manifest.size, serial=serial
        )
    )  # fmt: skip
    connection.execute(
        update(organisations)
        .where(organisations.c.id == item.row.organisation_id)
        .values(used_bytes=organisations.c.used_bytes + manifest.size)
    )
    if card:
        connection.execute(
            update(adapters).where(adapters.c.id == item.row.adapter_id, adapters.c.card == "").values(card=card)
        )
    touch(connection, item.row.adapter_id, serial, entry)
    details = {
        "digest": manifest.digest,
        "archive": f"sha256:{item.sha256}",
        "files": {f.path: f.digest for f in manifest.files},
    }
    record(
        connection, actor, "version.mirror", item.name, details, organisation_id=item.row.organisation_id, serial=serial
    )
    project(connection, [item.row.adapter_id])
