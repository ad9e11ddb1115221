"""The content-addressed cache: verified bytes only, correct on any file system with any number of processes, no locks needed.

    CACHEDIR.TAG
    blobs/sha256/<ab>/<hex64>              verified bytes, named by their digest; manifests are blobs too
    snapshots/<hex64>/<adapter name>/…     one published version as a plain folder (hard links to blobs, copies where
                                           links do not work); <hex64> is the manifest's digest
    snapshots/<hex64>/.manifest.json       the manifest
    snapshots/<hex64>/.complete            written before the folder gets its name: what was verified, and the file
                                           fingerprints at that moment
    partial/<hex64>.<process>.part         downloads under way or interrupted
    index/<hub>/…                          index files with their ETag
    verified/…                             fingerprints of snapshots in read-only layers, as checked by this user
    tmp/…, locks/…                         under construction; hints that somebody is already downloading

A file gets its final name by one atomic rename after its sha256 was compared and its bytes were synced. So whatever is
under a final name is whole, and a process may be killed, or the power fail, at any moment. What is hashed or parsed whenever
it is read (manifests, markers) is not synced: should the power fail just then, it is fetched or made again. No symbolic links. Locks are hints: without
them, work may be done twice and nothing else.

A snapshot is used again without hashing only while size, modification time, change time and inode of every file are
those noted when it was last hashed; else it is hashed again. A change that keeps the size is found that way as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.client.files import (
    discard,
    remove_tree,
    storage_errors,
    sync_folder,
    wait_for_lock,
    write_atomically,
)
from adapterhub.client.owners import GONE, owner_of, unique_name
from adapterhub.client.partials import Partial, size_of
from adapterhub.client.verification import (
    MANIFEST,
    MARKER,
    FileOf,
    fingerprint,
    hex_of,
    inside,
    read_json,
    read_marker,
    unchanged,
    verify_file,
)
from adapterhub.spec.errors import IntegrityError, StorageError

__all__ = ["Cache", "FileOf", "Partial", "SnapshotInfo", "hex_of"]

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of AdapterHub and can be deleted.\n"


class SnapshotInfo(NamedTuple):
    """A version in the cache, for `cache ls`."""

    digest: str
    folder: Path
    name: str
    reference: str
    size: int
    files: int
    used_at: float
    layer: Path


class Cache:
    """One cache folder, with any number of read-only layers below it.

    Args:
        root: made when something is first written.
        shared: further cache folders, only read, in order.
    """

    def __init__(self, root: Path, shared: Iterable[Path] = ()) -> None:
        self.root = Path(root)
        self.shared = tuple(Path(path) for path in shared)
        self._distrusted: set[Path] = set()  # broken blobs in layers that cannot be mended

    # -- blobs --------------------------------------------------------------------------------------------------------

    def blob_path(self, digest: str, root: Path | None = None) -> Path:
        """Where the blob is or would be."""
        digits = hex_of(digest)
        return (root or self.root) / "blobs" / "sha256" / digits[:2] / digits

    def find_blob(self, digest: str, size: int | None = None) -> Path | None:
        """Path of a blob in the first layer that has it with that size; not hashed again."""
        for root in (self.root, *self.shared):
            path = self.blob_path(digest, root)
            try:
                found = path.stat()
            except OSError:
                continue
            if (size is None or found.st_size == size) and path not in self._distrusted:
                return path
        return None

    def read_blob(self, digest: str, cap: int) -> bytes | None:
        """Bytes of a small blob, hashed as they are read; None if no layer has it unbroken. A broken one is removed."""
        for root in (self.root, *self.shared):
            path = self.blob_path(digest, root)
            try:
                with path.open("rb") as stream:
                    data = stream.read(cap + 1)
            except OSError:
                continue
            if hashlib.sha256(data).hexdigest() == hex_of(digest):
                return data
            if root == self.root:
                discard(path)
        return None

    def write_blob(self, digest: str, data: bytes) -> Path:
        """Keep bytes that are already in memory.

        Raises:
            IntegrityError: they do not hash to `digest`.
        """
        if hashlib.sha256(data).hexdigest() != hex_of(digest):
            raise IntegrityError(f"Bytes that should be {digest} are not.", hint="Nothing was kept.")
        path = self.blob_path(digest)
        self.make_folder(path.parent)
        write_atomically(path, data, mode=0o444, durable=False)  # hashed whenever it is read
        return path

    def drop_blob(self, digest: str) -> None:
        """Forget a blob that turned out broken."""
        discard(self.blob_path(digest))

    # -- downloads under way ------------------------------------------------------------------------------------------

    def partial(self, digest: str, size: int) -> Partial:
        """A download of `digest` under way in this process, beginning with what an interrupted one left behind."""
        self.make_folder(self.root / "partial")
        self.make_folder(self.blob_path(digest).parent)
        return Partial(self, digest, size)

    def require_space(self, size: int) -> None:
        """Refuse early what cannot fit.

        Raises:
            StorageError: fewer than `size` bytes (and a little more) are free.
        """
        import shutil

        self.make_folder(self.root)
        try:
            free = shutil.disk_usage(self.root).free
        except OSError:
            return
        if free < size:
            raise StorageError(
                f"The disk is full: {self.root} has {free:,} bytes free, {size:,} are needed.",
                hint="Free some space (adapterhub cache prune --older-than 30d) or set ADAPTERHUB_CACHE to another disk.",
            )

    @contextmanager
    def hint(self, digest: str, patience: float = 30.0) -> Iterator[None]:
        """Wait while another process seems to be downloading `digest`: at most `patience` seconds without any growth of
        its partial file. Correctness never depends on it."""
        path = self.root / "locks" / f"{hex_of(digest)}.lock"
        try:
            self.make_folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            yield
            return
        since, grown = time.monotonic(), -1

        def growing() -> bool:
            nonlocal since, grown
            size = sum(size_of(part) for part in self.partials_of(digest))
            if size != grown:
                since, grown = time.monotonic(), size
            return time.monotonic() - since <= patience

        try:
            wait_for_lock(handle, growing)
            yield
        finally:
            os.close(handle)

    def partials_of(self, digest: str) -> list[Path]:
        try:
            return list((self.root / "partial").glob(f"{hex_of(digest)}.*.part"))
        except OSError:
            return []

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def find_snapshot(self, digest: str) -> Path | None:
        """Folder of a complete, unchanged version in the first layer that has it; None if there is none.

        A version whose files changed since they were last hashed is hashed again; if it is broken it is taken apart.
        """
        for root in (self.root, *self.shared):
            home = root / "snapshots" / hex_of(digest)
            marker = read_marker(home)
            if marker is None:
                continue
            folder = home / marker["name"]
            noted = marker if root == self.root else self._noted(home)
            if noted is not None and unchanged(folder, noted["files"]):
                self._touch(home / MARKER)
                return folder
            if self._rehash(home, marker, own=root == self.root):
                return folder
            if root == self.root:
                self._take_apart(home, marker)
        return None

    def distrust(self, blob: Path) -> None:
        """Forget a blob that turned out broken; one in a layer that cannot be mended is passed over from now on."""
        if blob.is_relative_to(self.root):
            discard(blob)
        else:
            self._distrusted.add(blob)

    def install(self, work: Path, home: Path) -> None:
        """Give the finished folder its name, unless another process was faster: its folder may be in use. A broken one gives
        way."""
        for _ in range(10):
            try:
                os.rename(work, home)
                sync_folder(home.parent)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.ENOTDIR):
                    raise
            marker = read_marker(home)
            # linking the same blobs into `work` has changed the times of these files: then they are hashed
            if marker is not None and (
                unchanged(home / marker["name"], marker["files"]) or self._rehash(home, marker, own=True)
            ):
                return
            try:
                self._put_aside(home)
            except OSError:
                time.sleep(0.01)
        raise StorageError(f"{home} cannot be written.", hint="Delete it and try again.")

    def _noted(self, home: Path) -> dict[str, Any] | None:
        noted = read_json(self._note_path(home))
        return noted if isinstance(noted, dict) and isinstance(noted.get("files"), list) else None

    def _note_path(self, home: Path) -> Path:
        return self.root / "verified" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()}.json"

    def _rehash(self, home: Path, marker: dict[str, Any], *, own: bool) -> bool:
        """Hash every file of a snapshot; on success note the new fingerprints."""
        folder = home / marker["name"]
        records = []
        try:
            listed = self._files_by_manifest(home, marker["manifest"])
            if listed != {path: (size, digest) for path, size, digest, _ in marker["files"]}:
                return False
            for path, size, digest, _ in marker["files"]:
                target = inside(folder, path)
                verify_file(target, FileOf(path, size, digest))
                records.append([path, size, digest, fingerprint(target)])
        except (OSError, ValueError, TypeError):
            return False
        try:
            note = json.dumps({**marker, "files": records}).encode()
            if own:
                write_atomically(home / MARKER, note)
            else:
                self.make_folder(self.root / "verified")
                write_atomically(self._note_path(home), note)
        except OSError:
            pass  # a cache that cannot be written is hashed again next time
        return True

    def _files_by_manifest(self, home: Path, digest: str) -> dict[str, tuple[int, str]]:
        """What the manifest itself lists, so that a forged marker does not vouch for forged files.

        Raises:
            OSError: no unbroken copy of the manifest.
        """
        data = (home / MANIFEST).read_bytes()
        if hashlib.sha256(data).hexdigest() != hex_of(digest):
            raise OSError("the manifest is broken")
        return {
            str(file["path"]): (int(file["size"]), str(file["digest"])) for file in json.loads(data).get("files", ())
        }

    def _take_apart(self, home: Path, marker: Mapping[str, Any]) -> None:
        """Remove a broken snapshot and those of its blobs that are broken as well. If somebody has replaced it since it was
        looked at, it stays."""
        for path, size, digest, _ in marker["files"]:
            blob = self.blob_path(digest)
            try:
                verify_file(blob, FileOf(path, size, digest))
            except OSError:
                discard(blob)
        try:
            if read_marker(home) == marker:
                self._put_aside(home)
        except OSError:
            pass

    # -- house keeping ------------------------------------------------------------------------------------------------

    def snapshots(self) -> list[SnapshotInfo]:
        """Every complete version in every layer, the most recently used first."""
        found = []
        for root in (self.root, *self.shared):
            try:
                homes = sorted((root / "snapshots").iterdir())
            except OSError:
                continue
            for home in homes:
                marker = read_marker(home)
                if marker is None:
                    continue
                try:
                    used_at = (home / MARKER).stat().st_mtime
                except OSError:
                    continue  # removed this very moment
                found.append(
                    SnapshotInfo(
                        digest=marker["manifest"],
                        folder=home / marker["name"],
                        name=marker["name"],
                        reference=str(marker.get("reference", "")),
                        size=sum(int(file[1]) for file in marker["files"]),
                        files=len(marker["files"]),
                        used_at=used_at,
                        layer=root,
                    )
                )
        return sorted(found, key=lambda info: -info.used_at)

    def remove(self, digest: str) -> int:
        """Remove one version and those of its blobs that no other version uses. Returns the bytes freed."""
        home = self.root / "snapshots" / hex_of(digest)
        marker = read_marker(home) or {"files": []}
        before = self.size()
        with storage_errors(self.root):
            self._put_aside(home)
        used = self._used_blobs()
        for gone in {digest, *(file[2] for file in marker["files"])}:
            if hex_of(gone) not in used:
                self.drop_blob(gone)
        return max(0, before - self.size())

    def sweep(self, *, grace: float = 3600.0) -> int:
        """Remove blobs no version uses, abandoned partial files and temporary folders. Returns how many went.

        Args:
            grace: age in seconds below which a blob without a version is left alone: a download may be about to use it.
        """
        used = self._used_blobs()
        gone, now = 0, time.time()
        for path in (self.root / "blobs" / "sha256").glob("??/*"):
            if path.name not in used and now - modified(path) >= grace:
                discard(path)
                gone += 1
        for folder in (self.root / "tmp", self.root / "partial"):
            for path in list(folder.iterdir()) if folder.is_dir() else ():
                if owner_of(path) == GONE:
                    remove_tree(path) if path.is_dir() else discard(path)
                    gone += 1
        return gone

    def _used_blobs(self) -> set[str]:
        used: set[str] = set()
        for info in self.snapshots():
            if info.layer == self.root:
                marker = read_marker(info.folder.parent) or {"files": []}
                used.add(hex_of(info.digest))
                used.update(hex_of(file[2]) for file in marker["files"])
        return used

    def _put_aside(self, home: Path) -> None:
        """Take a folder out of sight by one rename, then remove it."""
        aside = self.root / "tmp" / unique_name()
        self.make_folder(aside.parent)
        try:
            os.rename(home, aside)
        except FileNotFoundError:
            return
        remove_tree(aside)

    def prune(
        self, *, max_size: int | None = None, older_than: float | None = None, dry_run: bool = False
    ) -> list[SnapshotInfo]:
        """Remove the versions used longest ago.

        Args:
            max_size: bytes the versions may take together afterwards.
            older_than: seconds since the last use after which a version goes.
            dry_run: only say what would go.

        Returns:
            What went.
        """
        own = [info for info in self.snapshots() if info.layer == self.root]
        total, now, going = sum(info.size for info in own), time.time(), []
        for info in reversed(own):
            old = older_than is not None and now - info.used_at > older_than
            if old or (max_size is not None and total > max_size):
                going.append(info)
                total -= info.size
        if not dry_run:
            for info in going:
                self.remove(info.digest)
            self.sweep()
        return going

    def verify(self) -> Iterator[tuple[SnapshotInfo, bool]]:
        """Hash every version again; a broken one in the own layer is taken apart, so that the next use fetches it anew."""
        for info in self.snapshots():
            home = info.folder.parent
            marker = read_marker(home)
            own = info.layer == self.root
            fine = marker is not None and self._rehash(home, marker, own=own)
            if not fine and marker is not None and own:
                self._take_apart(home, marker)
            yield info, fine
        for path in (self.root / "blobs" / "sha256").glob("??/*"):
            try:
                verify_file(path, FileOf(path.name, path.stat().st_size, f"sha256:{path.name}"))
            except OSError:
                discard(path)

    def size(self) -> int:
        """Bytes the own layer takes on disk, hard links counted once."""
        seen: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                try:
                    found = os.stat(os.path.join(folder, name))
                except OSError:
                    continue
                seen[found.st_dev, found.st_ino] = found.st_size
        return sum(seen.values())

    def make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        with storage_errors(folder.parent if folder.parent.exists() else self.root):
            folder.mkdir(parents=True, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"
            if self.root.is_dir() and not tag.exists():
                write_atomically(tag, _TAG, durable=False)

    def _touch(self, marker: Path) -> None:
        """Note the time of use, at most once in ten minutes."""
        try:
            if time.time() - marker.stat().st_mtime > 600:
                os.utime(marker)
        except OSError:
            pass


def modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
