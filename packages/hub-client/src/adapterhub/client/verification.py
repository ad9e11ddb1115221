"""Whether a file is what it should be: by its sha256, or unchanged since that was last looked at; and what a version's folder
says about itself."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.spec.errors import IntegrityError

__all__ = [
    "MANIFEST",
    "MARKER",
    "FileOf",
    "fingerprint",
    "hex_of",
    "inside",
    "link_or_copy",
    "read_json",
    "read_marker",
    "unchanged",
    "verify_file",
]

#: name of the file that is written before a version's folder gets its name
MARKER = ".complete"
#: name of the copy of the manifest beside a version's folder
MANIFEST = ".manifest.json"
_HEX = frozenset("0123456789abcdef")


class FileOf(NamedTuple):
    """A file of a version: relative path with `/`, size in bytes, `sha256:…`."""

    path: str
    size: int
    digest: str


def hex_of(digest: str) -> str:
    """The 64 hex digits of `sha256:…`.

    Raises:
        IntegrityError: it is no such digest; so nothing else ever becomes part of a path.
    """
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != 64 or not _HEX.issuperset(digits):
        raise IntegrityError(f"{digest[:80]!r} is no sha256 digest.")
    return digits


def link_or_copy(blob: Path, target: Path, *, copy: bool) -> None:
    """A hard link where that works; a copy of what belongs to somebody else."""
    try:
        if copy:
            raise OSError(errno.EXDEV, "another layer")
        os.link(blob, target)
    except OSError:
        import shutil

        shutil.copyfile(blob, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
        target.chmod(0o444)


def verify_file(path: Path, file: FileOf) -> None:
    """Hash a file.

    Raises:
        IntegrityError: size or digest differ.
        OSError: it cannot be read, or is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size != file.size:
            raise IntegrityError(f"{path} has not the {file.size:,} bytes it should have.")
        if hashlib.file_digest(stream, "sha256").hexdigest() != hex_of(file.digest):
            raise IntegrityError(f"{path} is not {file.digest}.")


def fingerprint(path: Path) -> list[int]:
    found = os.stat(path, follow_symlinks=False)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def unchanged(folder: Path, files: Iterable[Any]) -> bool:
    try:
        return all(fingerprint(inside(folder, path)) == noted for path, _, _, noted in files)
    except (OSError, ValueError, TypeError):
        return False


def inside(folder: Path, path: str) -> Path:
    """`folder / path` for a plain relative path.

    Raises:
        IntegrityError: the path leaves the folder, is absolute, or has parts no file system agrees on.
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        raise IntegrityError(f"{path!r} is no relative file name.", hint="The manifest is refused.")
    return folder.joinpath(*parts)


def read_marker(home: Path) -> dict[str, Any] | None:
    marker = read_json(home / MARKER)
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), list):
        return None
    name = marker.get("name")
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        return None
    if marker.get("manifest") != f"sha256:{home.name}":
        return None
    return marker


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
