"""Downloads under way: bytes hashed as they are written, kept when they are interrupted, named when they are right."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.client.files import discard, replace, storage_errors
from adapterhub.client.owners import ALIVE, GONE, owner_of, unique_name, unowned_name
from adapterhub.client.verification import hex_of
from adapterhub.spec.errors import IntegrityError, StorageError

if TYPE_CHECKING:
    from adapterhub.client.cache import Cache

__all__ = ["CHUNK", "Partial", "size_of"]

#: bytes read, hashed and written at a time
CHUNK = 1024 * 1024
#: bytes after which the disk is asked to begin writing
_SYNC_EVERY = 16 * 1024 * 1024
#: bytes of a file from which on they are hashed beside receiving and writing
_HASH_BESIDE = 4 * 1024 * 1024
#: batches of about CHUNK bytes that may wait to be hashed
_WAITING = 8


class Partial:
    """A download under way: append, then `commit`. Leaving the `with` block without commit keeps the bytes for later.

    Attributes:
        offset: bytes present.
    """

    def __init__(self, cache: Cache, digest: str, size: int) -> None:
        self.cache, self.digest, self.size = cache, digest, size
        self.path = cache.root / "partial" / f"{hex_of(digest)}.{unique_name()}.part"
        self.offset = 0
        self.hash = hashlib.sha256()
        self._done = False
        self._batch: list[bytes] = []
        self._batched = 0
        self._hashing: threading.Thread | None = None
        self._unsynced = 0
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None
        with storage_errors(self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._stream = os.open(self.path, flags, 0o644)
            try:
                self._adopt()
            except BaseException:
                os.close(self._stream)
                discard(self.path)
                raise

    def _adopt(self) -> None:
        """Begin with the longest prefix an interrupted download left: copied (its writer may not be dead after all) and
        hashed on the way."""
        left = {path: owner_of(path) for path in self.cache.partials_of(self.digest) if path != self.path}
        for path in sorted(left, key=size_of, reverse=True):
            if left[path] == ALIVE:
                continue
            if self.offset == 0 and 0 < size_of(path) <= self.size:
                try:
                    with path.open("rb") as old:
                        while self.offset < self.size and (piece := old.read(min(CHUNK, self.size - self.offset))):
                            self.append(piece)
                except OSError:
                    self.restart()
            if left[path] == GONE:
                discard(path)

    def append(self, piece: bytes) -> None:
        """Write and hash the next bytes. They are hashed by a thread of their own where it pays, so that the connection is not
        kept waiting; `finish_hash` waits for it."""
        if self.size < _HASH_BESIDE:
            self.hash.update(piece)
        else:
            self._batch.append(piece)
            self._batched += len(piece)
            if self._batched >= CHUNK:
                self._hand_over()
        view = memoryview(piece)
        with storage_errors(self.path):
            while view:
                view = view[os.write(self._stream, view) :]
        self.offset += len(piece)
        self._unsynced += len(piece)
        if self._unsynced >= _SYNC_EVERY and (self._syncing is None or not self._syncing.is_alive()):
            self._unsynced = 0
            self._syncing = threading.Thread(target=self._sync, daemon=True)
            self._syncing.start()

    def _hand_over(self) -> None:
        if self._hashing is None:
            self._queue: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
            self._room = threading.Semaphore(_WAITING)
            self._hashing = threading.Thread(target=self._hash, daemon=True)
            self._hashing.start()
        self._room.acquire()
        self._queue.put(self._batch)
        self._batch, self._batched = [], 0

    def _hash(self) -> None:
        while (batch := self._queue.get()) is not None:
            for piece in batch:
                self.hash.update(piece)
            self._room.release()

    def finish_hash(self) -> str:
        """The sha256 of everything appended, 64 hex digits."""
        if self._hashing is not None:
            self._queue.put(None)
            self._hashing.join()
            self._hashing = None
        for piece in self._batch:
            self.hash.update(piece)
        self._batch, self._batched = [], 0
        return self.hash.hexdigest()

    def _sync(self) -> None:
        """Let the disk begin while the rest is still coming. A failure is told once per open file: it is kept for `commit`."""
        try:
            os.fsync(self._stream)
        except OSError as error:
            self._sync_error = error

    def _end_sync(self) -> None:
        if self._syncing is not None:
            self._syncing.join()

    def restart(self) -> None:
        """Throw away what is there."""
        self.finish_hash()
        os.ftruncate(self._stream, 0)
        os.lseek(self._stream, 0, os.SEEK_SET)
        self.offset = 0
        self.hash = hashlib.sha256()

    def commit(self) -> Path:
        """Give the finished file its name.

        Raises:
            IntegrityError: size or sha256 are not what they should be; the bytes are thrown away.
        """
        found = self.finish_hash()
        if self.offset != self.size or found != hex_of(self.digest):
            wrong = f"{self.offset:,} bytes, sha256:{found}"
            self.restart()
            raise IntegrityError(
                f"The bytes received are not those asked for: {wrong} instead of {self.size:,} bytes, {self.digest}.",
                hint="They were thrown away. Try again; if it stays, the hub's copy is broken.",
            )
        target = self.cache.blob_path(self.digest)
        self._end_sync()
        with storage_errors(self.path):
            if self._sync_error is not None:
                raise self._sync_error
            os.fsync(self._stream)
            if os.name == "posix":
                os.fchmod(self._stream, 0o444)
            os.close(self._stream)
            self._done = True
            replace(self.path, target)  # not synced: a name that is lost with the power is fetched again
        return target

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._done:
            return
        self.finish_hash()
        self._end_sync()
        os.close(self._stream)
        if self.offset == 0 or isinstance(error, (StorageError, IntegrityError)):
            discard(self.path)  # give the space of a full disk back; keep nothing that is known to be wrong
        else:
            abandoned = self.path.with_name(f"{hex_of(self.digest)}.{unowned_name()}.part")
            try:
                os.rename(self.path, abandoned)  # free to be taken up, also by this process
            except OSError:
                pass


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
