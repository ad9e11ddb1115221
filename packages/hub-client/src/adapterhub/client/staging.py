"""A version's folder under construction: each file is taken in as soon as its bytes are there, and the folder gets its name at
the end. What was taken stays, whatever others remove from the cache meanwhile."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from adapterhub.client.files import discard, remove_tree, storage_errors, write_atomically
from adapterhub.client.owners import unique_name
from adapterhub.client.verification import (
    MANIFEST,
    MARKER,
    FileOf,
    fingerprint,
    hex_of,
    inside,
    link_or_copy,
    verify_file,
)
from adapterhub.spec.errors import IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

    from adapterhub.client.cache import Cache

__all__ = ["Staging"]


class Staging:
    """Use it in a `with` block; without `finish` nothing remains.

    Args:
        cache: where the blobs are and the folder goes.
        name: of the folder.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self.cache, self.name = cache, name
        cache.make_folder(cache.root / "tmp")
        self.work = cache.root / "tmp" / unique_name()
        self.folder = self.work / name
        self._taken: dict[str, FileOf] = {}
        self._lock = threading.Lock()

    def take(self, file: FileOf, *, fresh: bool = False) -> Path | None:
        """Take in a file from the cache's blobs. None if they do not have it, or not unbroken (then it is forgotten).

        Args:
            fresh: this process has just hashed it; it is not hashed again.
        """
        cache = self.cache
        blob = cache.find_blob(file.digest, file.size)
        if blob is None:
            return None
        target = inside(self.folder, file.path)
        with storage_errors(cache.root / "tmp"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                link_or_copy(blob, target, copy=not blob.is_relative_to(cache.root))
                if not fresh:
                    verify_file(target, file)
            except FileNotFoundError:  # removed by somebody this very moment
                discard(target)
                return None
            except IntegrityError:
                discard(target)
                cache.distrust(blob)
                return None
        with self._lock:
            self._taken[file.path] = file
        return target

    def finish(self, digest: str, manifest: bytes, **about: Any) -> Path:
        """Give the folder its name.

        Args:
            digest: of the manifest.
            manifest: its bytes, kept beside the folder.
            about: kept in the marker, for `cache ls`.
        """
        home = self.cache.root / "snapshots" / hex_of(digest)
        self.cache.make_folder(home.parent)
        with storage_errors(self.cache.root / "tmp"):
            self.folder.mkdir(parents=True, exist_ok=True)
            records = [
                [file.path, file.size, file.digest, fingerprint(inside(self.folder, file.path))]
                for file in sorted(self._taken.values())
            ]
            write_atomically(self.work / MANIFEST, manifest, durable=False)
            document = {"manifest": digest, "name": self.name, "files": records, **about}
            write_atomically(self.work / MARKER, json.dumps(document).encode(), durable=False)
            self.cache.install(self.work, home)
        return home / self.name

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *details: object) -> None:
        remove_tree(self.work)
