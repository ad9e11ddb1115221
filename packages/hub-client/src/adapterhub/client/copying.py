"""A folder of the user's own with an adapter's files: `download(..., local_dir=…)`, `adapterhub pull --local-dir`.

The cache keeps a record of what a copy brought. So a later copy into the same folder replaces exactly that, takes away what
the new version no longer has, and touches nothing else; and in the folder there is nothing but the adapter.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.client.files import alone_in, discard, replace, storage_errors, write_atomically
from adapterhub.client.owners import unique_name
from adapterhub.spec.errors import StorageError

if TYPE_CHECKING:
    from adapterhub.client.cache import Cache

__all__ = ["copy_folder"]

_ELSEWHERE = "Give another folder."


def copy_folder(folder: Path, target: Path, cache: Cache) -> Path:
    """Copy a verified folder; each file appears whole or not at all.

    Args:
        folder: the folder in the cache.
        target: made if it is not there. Files an earlier copy brought are replaced, or removed if `folder` does not have
            them, as long as they are unchanged since.
        cache: keeps the record.

    Returns:
        `target`.

    Raises:
        StorageError: `target` holds other files of the same names, or changed ones; nothing is touched. Or the disk is full.
    """
    fresh = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    digests = {name: _digest(path) for name, path in fresh.items()}
    with storage_errors(target if target.is_dir() else target.absolute().parent, _ELSEWHERE):
        target.mkdir(parents=True, exist_ok=True)
        with alone_in(target):
            record = cache.root / "copies" / f"{hashlib.sha256(os.fsencode(target.resolve())).hexdigest()}.json"
            brought = _read(record)
            stale = _check(target, digests, brought)
            both = {
                name: sorted({*brought.get(name, ()), digests.get(name, "")} - {""}) for name in {*brought, *digests}
            }
            cache.make_folder(record.parent)
            _write(record, both)  # true whenever this is interrupted
            for name, path in fresh.items():
                _copy(path, target / name)
            for name in stale:
                discard(target / name)
            _write(record, {name: [digest] for name, digest in digests.items()})
    return target


def _check(target: Path, digests: dict[str, str], brought: dict[str, list[str]]) -> list[str]:
    """Names of the files to remove.

    Raises:
        StorageError: a file in the way is the user's own.
    """
    stale, foreign = [], []
    for name in sorted({*digests, *brought}):
        path = target / name
        if not path.is_file():
            if path.exists():
                foreign.append(name)
            continue
        found = _digest(path)
        if found == digests.get(name):
            continue
        if found not in brought.get(name, ()):
            foreign.append(name)
        elif name not in digests:
            stale.append(name)
    if foreign:
        raise StorageError(
            f"{target} holds {', '.join(foreign[:5])}{' and more' if len(foreign) > 5 else ''}, and not as an earlier "
            "download left it; nothing was changed.",
            hint="Give another folder, or move these files away.",
        )
    return stale


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    work = to.with_name(f".{unique_name()}.tmp")
    try:
        shutil.copyfile(path, work)
        work.chmod(0o644)
        replace(work, to)
    finally:
        work.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(record: Path) -> dict[str, list[str]]:
    """name → the digests an earlier copy may have left under it."""
    try:
        files = json.loads(record.read_bytes())["files"]
        return {str(name): [str(digest) for digest in digests] for name, digests in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write(record: Path, files: dict[str, list[str]]) -> None:
    write_atomically(record, json.dumps({"files": files}, sort_keys=True).encode() + b"\n", durable=False)
