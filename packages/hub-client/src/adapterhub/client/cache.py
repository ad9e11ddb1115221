"""The content-addressed cache: verified bytes only, correct on any file system with any number of processes, no locks needed.

    CACHEDIR.TAG
    blobs/sha256/<ab>/<hex64>              verified bytes, named by their digest; manifests are blobs too
    snapshots/<hex64>/<adapter name>/…     one published version as a plain folder (hard links to blobs, copies where
                                           links do not work); <hex64> is the manifest's digest
    snapshots/<hex64>/.complete            written before the folder gets its name: what was verified, and the file
                                           fingerprints at that moment
    partial/<hex64>.<process>.part         downloads under way or interrupted
    index/<hub>/…                          index files with their ETag
    verified/…                             fingerprints of snapshots in read-only layers, as checked by this user
    tmp/…, locks/…                         under construction; hints that somebody is already downloading

A file gets its final name by one atomic rename after its sha256 was compared and its bytes were synced. So whatever is
under a final name is whole, and a process may be killed at any moment. No symbolic links. Locks are hints: without
them, work may be done twice and nothing else.

A snapshot is used again without hashing only while size, modification time, change time and inode of every file are
those noted when it was last hashed; else it is hashed again. A change that keeps the size is found that way as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.client.files import (
    discard,
    replace,
    storage_errors,
    sync_folder,
    unique_name,
    write_atomically,
)
from adapterhub.spec.errors import IntegrityError, StorageError

__all__ = ["CHUNK", "Cache", "FileOf", "Partial", "SnapshotInfo", "hex_of"]

#: bytes read, hashed and written at a time
CHUNK = 1024 * 1024
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of AdapterHub and can be deleted.\n"
_MARKER = ".complete"
#: seconds after which a partial file or temporary folder without a living owner is rubbish
_ABANDONED = 24 * 3600.0
_HEX = frozenset("0123456789abcdef")


class FileOf(NamedTuple):
    """A file of a version: relative path with `/`, size in bytes, `sha256:…`."""

    path: str
    size: int
    digest: str


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


def hex_of(digest: str) -> str:
    """The 64 hex digits of `sha256:…`.

    Raises:
        IntegrityError: it is no such digest; so nothing else ever becomes part of a path.
    """
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != 64 or not _HEX.issuperset(digits):
        raise IntegrityError(f"{digest[:80]!r} is no sha256 digest.")
    return digits


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
        self._folder(path.parent)
        write_atomically(path, data, mode=0o444)
        return path

    def drop_blob(self, digest: str) -> None:
        """Forget a blob that turned out broken."""
        discard(self.blob_path(digest))

    # -- downloads under way ------------------------------------------------------------------------------------------

    def partial(self, digest: str, size: int) -> Partial:
        """A download of `digest` under way in this process, beginning with what an interrupted one left behind."""
        self._folder(self.root / "partial")
        self._folder(self.blob_path(digest).parent)
        return Partial(self, digest, size)

    def require_space(self, size: int) -> None:
        """Refuse early what cannot fit.

        Raises:
            StorageError: fewer than `size` bytes (and a little more) are free.
        """
        self._folder(self.root)
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
        try:
            import fcntl
        except ImportError:  # no such call on this system: work may be done twice, nothing else
            yield
            return
        path = self.root / "locks" / f"{hex_of(digest)}.lock"
        try:
            self._folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            yield
            return
        try:
            since, grown = time.monotonic(), -1
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                        break
                size = sum(_size(part) for part in self._partials(digest))
                now = time.monotonic()
                if size != grown:
                    since, grown = now, size
                elif now - since > patience:
                    break
                time.sleep(0.02)
            yield
        finally:
            os.close(handle)

    def _partials(self, digest: str) -> list[Path]:
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
            marker = _read_marker(home)
            if marker is None:
                continue
            folder = home / marker["name"]
            noted = marker if root == self.root else self._noted(home)
            if noted is not None and _unchanged(folder, noted["files"]):
                self._touch(home / _MARKER)
                return folder
            if self._rehash(home, marker, own=root == self.root):
                return folder
            if root == self.root:
                self._take_apart(home, marker)
        return None

    def build_snapshot(
        self, digest: str, name: str, files: Iterable[FileOf], *, fresh: Iterable[str] = (), **about: Any
    ) -> Path:
        """The folder of a version, made from blobs that are all in the cache.

        Args:
            digest: of the manifest.
            name: of the folder.
            files: what goes in; every blob is there.
            fresh: digests of blobs this process has just hashed; all others are hashed again.
            about: kept in the marker, for `cache ls`.
        """
        home = self.root / "snapshots" / hex_of(digest)
        files, hashed = list(files), set(fresh)
        self._folder(home.parent)
        self._folder(self.root / "tmp")
        work = self.root / "tmp" / unique_name()
        with storage_errors(self.root / "tmp"):
            try:
                folder = work / name
                folder.mkdir(parents=True)
                records = []
                for file in files:
                    blob = self.find_blob(file.digest, file.size)
                    if blob is None:
                        raise IntegrityError(
                            f"The blob {file.digest} vanished from the cache.",
                            hint="Try again.",
                            details={"vanished": True},
                        )
                    target = _inside(folder, file.path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link(blob, target, copy=not blob.is_relative_to(self.root))
                    if file.digest not in hashed or target.stat().st_size != file.size:
                        self._check(blob, target, file)
                    records.append([file.path, file.size, file.digest, _fingerprint(target)])
                document = {"manifest": digest, "name": name, "files": records, **about}
                write_atomically(work / _MARKER, json.dumps(document).encode(), durable=True)
                sync_folder(folder)
                self._name(work, home)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return home / name

    def _check(self, blob: Path, target: Path, file: FileOf) -> None:
        try:
            _verify(target, file)
        except IntegrityError as error:
            self._distrusted.add(blob) if not blob.is_relative_to(self.root) else discard(blob)
            error.details["vanished"] = True  # it went bad on disk: fetch it anew
            raise

    def _name(self, work: Path, home: Path) -> None:
        """Give the finished folder its name, unless another process was faster; a broken one gives way."""
        for _ in range(10):
            try:
                os.rename(work, home)
                sync_folder(home.parent)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.ENOTDIR):
                    raise
            marker = _read_marker(home)
            if marker is not None and _unchanged(home / marker["name"], marker["files"]):
                return
            try:
                self._put_aside(home)
            except OSError:
                time.sleep(0.01)
        raise StorageError(f"{home} cannot be written.", hint="Delete it and try again.")

    def _noted(self, home: Path) -> dict[str, Any] | None:
        return _read_json(self._note_path(home))

    def _note_path(self, home: Path) -> Path:
        return self.root / "verified" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()}.json"

    def _rehash(self, home: Path, marker: dict[str, Any], *, own: bool) -> bool:
        """Hash every file of a snapshot; on success note the new fingerprints."""
        folder = home / marker["name"]
        records = []
        try:
            manifest_files = self._files_by_manifest(marker)
            for path, size, digest, _ in marker["files"]:
                if manifest_files is not None and manifest_files.get(path) != (size, digest):
                    return False
                target = _inside(folder, path)
                _verify(target, FileOf(path, size, digest))
                records.append([path, size, digest, _fingerprint(target)])
        except (OSError, ValueError, TypeError):
            return False
        try:
            note = json.dumps({**marker, "files": records}).encode()
            if own:
                write_atomically(home / _MARKER, note)
            else:
                self._folder(self.root / "verified")
                write_atomically(self._note_path(home), note)
        except OSError:
            pass  # a cache that cannot be written is hashed again next time
        return True

    def _files_by_manifest(self, marker: Mapping[str, Any]) -> dict[str, tuple[int, str]] | None:
        """What the manifest itself lists, so that a forged marker does not vouch for forged files."""
        data = self.read_blob(marker["manifest"], 1 << 20)
        if data is None:
            raise OSError("no manifest")
        return {
            str(file["path"]): (int(file["size"]), str(file["digest"])) for file in json.loads(data).get("files", ())
        }

    def _take_apart(self, home: Path, marker: Mapping[str, Any]) -> None:
        """Remove a broken snapshot and those of its blobs that are broken as well."""
        for path, size, digest, _ in marker["files"]:
            blob = self.blob_path(digest)
            try:
                _verify(blob, FileOf(path, size, digest))
            except OSError:
                discard(blob)
        try:
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
                marker = _read_marker(home)
                if marker is None:
                    continue
                found.append(
                    SnapshotInfo(
                        digest=marker["manifest"],
                        folder=home / marker["name"],
                        name=marker["name"],
                        reference=str(marker.get("reference", "")),
                        size=sum(int(file[1]) for file in marker["files"]),
                        files=len(marker["files"]),
                        used_at=(home / _MARKER).stat().st_mtime,
                        layer=root,
                    )
                )
        return sorted(found, key=lambda info: -info.used_at)

    def remove(self, digest: str) -> int:
        """Remove one version and those of its blobs that no other version uses. Returns the bytes freed."""
        home = self.root / "snapshots" / hex_of(digest)
        marker = _read_marker(home) or {"files": []}
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
            if path.name not in used and now - _modified(path) >= grace:
                discard(path)
                gone += 1
        for folder in (self.root / "tmp", self.root / "partial"):
            for path in list(folder.iterdir()) if folder.is_dir() else ():
                if not _alive(path):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else discard(path)
                    gone += 1
        return gone

    def _used_blobs(self) -> set[str]:
        used: set[str] = set()
        for info in self.snapshots():
            if info.layer == self.root:
                marker = _read_marker(info.folder.parent) or {"files": []}
                used.add(hex_of(info.digest))
                used.update(hex_of(file[2]) for file in marker["files"])
        return used

    def _put_aside(self, home: Path) -> None:
        """Take a folder out of sight by one rename, then remove it."""
        aside = self.root / "tmp" / unique_name()
        self._folder(aside.parent)
        try:
            os.rename(home, aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

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
            marker = _read_marker(home)
            own = info.layer == self.root
            fine = marker is not None and self._rehash(home, marker, own=own)
            if not fine and marker is not None and own:
                self._take_apart(home, marker)
            yield info, fine
        for path in (self.root / "blobs" / "sha256").glob("??/*"):
            try:
                _verify(path, FileOf(path.name, path.stat().st_size, f"sha256:{path.name}"))
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

    def _folder(self, folder: Path) -> None:
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


class Partial:
    """A download under way: append, then `commit`. Leaving the `with` block without commit keeps the bytes for later.

    Attributes:
        offset: bytes present, all of them hashed.
    """

    def __init__(self, cache: Cache, digest: str, size: int) -> None:
        self.cache, self.digest, self.size = cache, digest, size
        self.path = cache.root / "partial" / f"{hex_of(digest)}.{unique_name()}.part"
        self.offset = 0
        self.hash = hashlib.sha256()
        self._done = False
        with storage_errors(self.path):
            self._stream = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                self._adopt()
            except BaseException:
                os.close(self._stream)
                discard(self.path)
                raise

    def _adopt(self) -> None:
        """Begin with the longest prefix an interrupted download left: copied (its writer may not be dead after all) and
        hashed on the way."""
        left = [path for path in self.cache._partials(self.digest) if path != self.path and not _alive(path)]
        for path in sorted(left, key=_size, reverse=True):
            if not 0 < _size(path) <= self.size:
                discard(path)
                continue
            if self.offset == 0:
                try:
                    with path.open("rb") as old:
                        while self.offset < self.size and (piece := old.read(min(CHUNK, self.size - self.offset))):
                            self.append(piece)
                except OSError:
                    self.restart()
            discard(path)

    def append(self, piece: bytes | memoryview) -> None:
        """Write and hash the next bytes."""
        view = memoryview(piece)
        self.hash.update(view)
        with storage_errors(self.path):
            while view:
                view = view[os.write(self._stream, view) :]
        self.offset += len(piece)

    def restart(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self._stream, 0)
        os.lseek(self._stream, 0, os.SEEK_SET)
        self.offset = 0
        self.hash = hashlib.sha256()

    def commit(self) -> Path:
        """Give the finished file its name.

        Raises:
            IntegrityError: size or sha256 are not what they should be; the bytes are thrown away.
        """
        if self.offset != self.size or self.hash.hexdigest() != hex_of(self.digest):
            wrong = f"{self.offset:,} bytes, sha256:{self.hash.hexdigest()}"
            self.restart()
            raise IntegrityError(
                f"The bytes received are not those asked for: {wrong} instead of {self.size:,} bytes, {self.digest}.",
                hint="They were thrown away. Try again; if it stays, the hub's copy is broken.",
            )
        target = self.cache.blob_path(self.digest)
        with storage_errors(self.path):
            os.fsync(self._stream)
            if os.name == "posix":
                os.fchmod(self._stream, 0o444)
            os.close(self._stream)
            self._done = True
            replace(self.path, target)
            sync_folder(target.parent)
        return target

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._done:
            return
        os.close(self._stream)
        if self.offset == 0 or isinstance(error, (StorageError, IntegrityError)):
            discard(self.path)  # give the space of a full disk back; keep nothing that is known to be wrong
        else:
            abandoned = self.path.with_name(f"{hex_of(self.digest)}.0-{os.urandom(8).hex()}.part")
            try:
                os.rename(self.path, abandoned)  # process 0: free to be taken up, also by this process
            except OSError:
                pass


def _link(blob: Path, target: Path, *, copy: bool) -> None:
    """A hard link where that works; a copy of what belongs to somebody else."""
    try:
        if copy:
            raise OSError(errno.EXDEV, "another layer")
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
        target.chmod(0o444)


def _verify(path: Path, file: FileOf) -> None:
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


def _fingerprint(path: Path) -> list[int]:
    found = os.stat(path, follow_symlinks=False)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _unchanged(folder: Path, files: Iterable[Any]) -> bool:
    try:
        return all(_fingerprint(_inside(folder, path)) == noted for path, _, _, noted in files)
    except (OSError, ValueError, TypeError):
        return False


def _inside(folder: Path, path: str) -> Path:
    """`folder / path` for a plain relative path.

    Raises:
        IntegrityError: the path leaves the folder, is absolute, or has parts no file system agrees on.
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        raise IntegrityError(f"{path!r} is no relative file name.", hint="The manifest is refused.")
    return folder.joinpath(*parts)


def _read_marker(home: Path) -> dict[str, Any] | None:
    marker = _read_json(home / _MARKER)
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), list):
        return None
    name = marker.get("name")
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        return None
    if marker.get("manifest") != f"sha256:{home.name}":
        return None
    return marker


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _alive(path: Path) -> bool:
    """Whether the process whose number is in the name may still be at work on `path`."""
    stem = path.name.removesuffix(".part").rpartition(".")[2]
    number = stem.partition("-")[0]
    if not number.isdigit() or int(number) == 0:
        return False
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    if age > _ABANDONED:
        return False
    if int(number) == os.getpid():
        return True
    if os.name == "nt":  # there, signal 0 is no question but Ctrl-C
        return age < 600.0
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return _foreign() and age < 600.0
    except OSError:
        return True
    return True


def _foreign() -> bool:
    """Whether process numbers in the cache may belong to another machine. Set `ADAPTERHUB_CACHE_SHARED=1` for a cache
    several machines write to; then a partial file is left alone while it is young."""
    return os.environ.get("ADAPTERHUB_CACHE_SHARED", "") not in ("", "0")
