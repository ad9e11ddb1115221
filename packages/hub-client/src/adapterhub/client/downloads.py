"""From an index entry to a verified folder: manifest, missing blobs in parallel, snapshot."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.client.cache import Cache
from adapterhub.client.staging import Staging
from adapterhub.client.verification import FileOf, hex_of, inside
from adapterhub.spec.errors import AdapterNotFoundError, IntegrityError, OfflineError, PolicyError
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.reference import fold

if TYPE_CHECKING:
    from adapterhub.client.settings import Hub
    from adapterhub.client.sources import Source

__all__ = ["MAX_DOWNLOAD", "fetch"]

MANIFEST_CAP = 1024 * 1024
#: bytes of one version that are taken at most; `ADAPTERHUB_MAX_DOWNLOAD` changes it
MAX_DOWNLOAD = 64 * 1024**3
#: kinds of files an adapter is made of
SUFFIXES = (".safetensors", ".json", ".md", ".txt")
_WORKERS = 8
#: bytes up to which files are small
_SMALL = 256 * 1024
#: how often a file is fetched again that vanishes from the cache before it is used
_PATIENCE = 10


def fetch(
    entry: IndexEntry,
    *,
    source: Callable[[], Source],
    cache: Cache,
    hub: Hub,
    offline: bool,
    expect: str | None = None,
    show: bool = True,
    report: Callable[[int, int], Any] | None = None,
) -> Path:
    """The verified folder of the version `entry` describes; nothing is asked when it is in the cache.

    Args:
        source: gives the hub's source when it is needed.
        expect: 64 hex digits the user pinned: the manifest's, or those of one of its files.
        show, report: the progress display.

    Raises:
        AdapterNotFoundError: the hub has no bytes for it.
        OfflineError: offline, and not (completely) in the cache.
        IntegrityError: what arrived is not what was published.
    """
    digest = entry.digest
    if digest is None or entry.status != "available":
        raise AdapterNotFoundError(
            f"{entry.adapter}:{entry.version} is listed by the hub {hub.name!r}, but its bytes are not there.",
            hint="It comes from the old catalogue; whoever runs the hub can supply the files (adapterhub-server mirror).",
        )
    found = cache.find_snapshot(digest)
    if found is not None:
        if expect is not None and expect != hex_of(digest):
            _check_pin(cache, digest, expect)
        return found
    for _ in range(_PATIENCE):
        try:
            return _fetch(entry, digest, source, cache, hub, offline, expect, show, report)
        except FileNotFoundError:  # somebody emptied the cache at this very moment
            continue
    raise _not_kept(f"{entry.adapter}:{entry.version}", cache)


def _fetch(
    entry: IndexEntry,
    digest: str,
    source: Callable[[], Source],
    cache: Cache,
    hub: Hub,
    offline: bool,
    expect: str | None,
    show: bool,
    report: Callable[[int, int], Any] | None,
) -> Path:
    def reach(what: str) -> Source:
        found = source()
        if offline and not found.offline_capable:
            raise OfflineError(
                f"Offline mode is on, and {what} of {entry.adapter}:{entry.version} is not in the cache ({cache.root}).",
                hint="Download it once while online, or unset ADAPTERHUB_OFFLINE.",
            )
        return found

    data = cache.read_blob(digest, MANIFEST_CAP)
    if data is None:
        there = reach("the manifest")
        for _ in range(2):  # a bit may have fallen over on the way
            data = there.manifest(digest)
            if sound := (len(data) <= MANIFEST_CAP and hashlib.sha256(data).hexdigest() == hex_of(digest)):
                break
        if data is None or not sound:
            raise IntegrityError(
                f"The hub {hub.name!r} sent a manifest that is not {digest}.",
                hint="It was thrown away. Try again; if it stays, tell who runs the hub.",
            )
        fresh_manifest = True
    else:
        fresh_manifest = False
    files = _files_of(data, entry, digest, expect)
    if fresh_manifest:
        cache.write_blob(digest, data)
    with Staging(cache, _folder_name(entry.name)) as staging:
        missing = [file for file in files if staging.take(file) is None]
        if missing:
            _download_all(missing, reach("a file"), cache, staging, entry, show, report)
        for file in files:
            if file.path.endswith(".safetensors"):
                _check_weights(inside(staging.folder, file.path), file, entry)
        return staging.finish(
            digest,
            data,
            reference=f"{entry.adapter}:{entry.version}",
            hub=hub.name,
            full_id=entry.id,
            model_name=entry.model_name,
        )


def _files_of(data: bytes, entry: IndexEntry, digest: str, expect: str | None) -> list[FileOf]:
    """The files a manifest lists, once it is known to be a sound manifest of this very version."""
    from adapterhub.spec.manifest import Manifest

    manifest = Manifest.from_bytes(data)
    stated = (fold(manifest.namespace), fold(manifest.name), manifest.version, manifest.base_model.name)
    if stated != (fold(entry.namespace), fold(entry.name), entry.version, entry.model_name):
        raise IntegrityError(
            f"The manifest {digest} is of @{stated[0]}/{stated[1]}:{stated[2]} for {stated[3]}, "
            f"not of {entry.adapter}:{entry.version} for {entry.model_name}.",
            hint="The hub's index is wrong or was tampered with; nothing was downloaded.",
        )
    files = [FileOf(file.path, file.size, file.digest) for file in manifest.files]
    pins = {hex_of(digest), *(hex_of(file.digest) for file in files)}
    if expect is not None and expect not in pins:
        raise _pin_error(entry.adapter, expect)
    for file in files:
        if not file.path.lower().endswith(SUFFIXES):
            raise PolicyError(
                f"{entry.adapter}:{entry.version} holds {file.path!r}; only {', '.join(SUFFIXES)} files are taken.",
                hint="Files of other kinds, pickles above all, can run code. Tell who runs the hub.",
            )
    limit = int(os.environ.get("ADAPTERHUB_MAX_DOWNLOAD") or MAX_DOWNLOAD)
    if manifest.size > limit:
        raise PolicyError(
            f"{entry.adapter}:{entry.version} has {manifest.size:,} bytes; at most {limit:,} are downloaded.",
            hint="Set ADAPTERHUB_MAX_DOWNLOAD (bytes) if that is what you want.",
        )
    return files


def _check_weights(path: Path, file: FileOf, entry: IndexEntry) -> None:
    """Refuse weights whose header lies, whatever the hub let pass: they are the published bytes, but no safetensors file."""
    from adapterhub.spec.safetensors_header import SafetensorsError, read_header

    try:
        read_header(path)
    except SafetensorsError as error:
        raise IntegrityError(
            f"{file.path} of {entry.adapter}:{entry.version} is no sound safetensors file: {error}.",
            hint="It is what was published, but it is not to be loaded. Tell its publisher and who runs the hub.",
        ) from error


def _check_pin(cache: Cache, digest: str, expect: str) -> None:
    data = cache.read_blob(digest, MANIFEST_CAP)
    files = json.loads(data).get("files", []) if data else []
    if all(str(file.get("digest")) != f"sha256:{expect}" for file in files):
        raise _pin_error(digest, expect)


def _pin_error(what: str, expect: str) -> IntegrityError:
    return IntegrityError(
        f"The reference pins sha256:{expect}, and {what} has neither that manifest nor such a file.",
        hint="The reference was written for other content; do not use this unchecked.",
    )


def _download_all(
    files: list[FileOf],
    source: Source,
    cache: Cache,
    staging: Staging,
    entry: IndexEntry,
    show: bool,
    report: Callable[[int, int], Any] | None,
) -> None:
    """Download files side by side under one display, and take each in as soon as it is there."""
    from adapterhub.client.progress import transfer_display

    total = sum(file.size for file in files)
    cache.require_space(total)

    def one(file: FileOf) -> None:
        for _ in range(_PATIENCE):
            mine = _download(file, source, cache, advance)
            if staging.take(file, fresh=mine) is not None:
                return
            advance(-file.size)  # removed, or gone bad, between here and there
        raise _not_kept(f"{file.path} of {entry.adapter}", cache)

    with transfer_display(entry.adapter, total, enabled=show, report=report) as advance:

        def some(files: list[FileOf]) -> None:
            for file in files:
                one(file)

        # small files follow each other over one connection: a connection for each would take longer than they do
        large = sorted((file for file in files if file.size > _SMALL), key=lambda file: -file.size)
        small = [file for file in files if file.size <= _SMALL]
        groups = [[file] for file in large] + ([small] if small else [])
        if len(groups) == 1:
            some(groups[0])
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(_WORKERS, len(groups))) as pool:
            jobs = [pool.submit(some, group) for group in groups]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise


def _not_kept(what: str, cache: Cache) -> IntegrityError:
    return IntegrityError(
        f"{what} does not stay in the cache ({cache.root}).", hint="Is something else emptying it? Try again."
    )


def _download(file: FileOf, source: Source, cache: Cache, advance: Callable[[int], None]) -> bool:
    """Get one blob into the cache. False if it is there already: another process was faster."""
    with cache.hint(file.digest):
        if cache.find_blob(file.digest, file.size) is not None:
            advance(file.size)
            return False
        with cache.partial(file.digest, file.size) as partial:
            advance(partial.offset)
            for attempt in range(2):
                source.blob(file.digest, file.size, partial, advance)
                try:
                    partial.commit()
                    break
                except IntegrityError:
                    # a kept prefix may have been broken, or a bit fell over on the way: once more from the start
                    if attempt:
                        raise
                    advance(-file.size)
    return True


def _folder_name(name: str) -> str:
    """The adapter's name as a folder that every system allows."""
    from adapterhub.spec.validation.path_names import name_problem

    return "adapter" if name_problem(name) or name.startswith(".") else name
