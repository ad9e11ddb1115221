"""Bytes by digest, in a folder or an S3-compatible bucket. Nothing is ever stored under a name a client chose.

blobs/sha256/<ab>/<64 hex>      finished, immutable
uploads/<id>/<start>-<random>   pieces of unfinished uploads
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore.store import LocalStore, S3Store

from adapterhub.server.settings import Settings
from adapterhub.spec.errors import IntegrityError, StorageError

__all__ = ["CHUNK", "DIGEST", "BlobStore", "Part", "Stored", "open_blob_store"]

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHUNK = 1024 * 1024
_PART_OF_OBJECT = 8 * CHUNK  # object stores take parts of 5 MiB and more


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A piece of an upload as it was received: `size` bytes from `start`, stored at `path`."""

    start: int
    size: int
    path: str
    digest: str


class Stored(NamedTuple):
    """A blob as the store knows it."""

    digest: str
    size: int
    modified: datetime


class BlobStore:
    """Content-addressed bytes in one place that all replicas see.

    Args:
        store: an obstore store.
        folder: the folder behind `store`, or None for a bucket.
        shown: the address without secrets, for messages.
    """

    def __init__(self, store: Any, folder: Path | None, shown: str) -> None:
        self.store = store
        self.folder = folder
        self.shown = shown
        self._buffer = CHUNK if folder is not None else _PART_OF_OBJECT

    @staticmethod
    def path_of(digest: str) -> str:
        """Where the bytes of `digest` are. Raises ValueError for anything that is no digest."""
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no sha256 digest")
        name = digest.removeprefix("sha256:")
        return f"blobs/sha256/{name[:2]}/{name}"

    def size(self, digest: str) -> int | None:
        """How many bytes are stored under `digest`; None where there are none."""
        if self.folder is not None:
            try:
                return (self.folder / self.path_of(digest)).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            return int(obstore.head(self.store, self.path_of(digest))["size"])
        except FileNotFoundError:
            return None

    def read(self, digest: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` (exclusive; None: all) of a blob. Raises FileNotFoundError."""
        path = self.path_of(digest)
        if self.folder is not None:
            with open(self.folder / path, "rb", buffering=0) as file:
                file.seek(start)
                return file.read() if end is None else _exactly(file, max(0, end - start))
        if end is None and start == 0:
            return bytes(obstore.get(self.store, path).bytes())
        return bytes(obstore.get_range(self.store, path, start=start, end=end))

    async def stream(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes of a blob in pieces of about a megabyte."""
        options: Any = {"range": (start, end)} if end is not None else {}
        answer = await obstore.get_async(self.store, self.path_of(digest), options=options)
        async for piece in answer.stream(min_chunk_size=CHUNK):
            yield bytes(piece)

    def pieces(self, digest: str) -> Iterator[bytes]:
        """The bytes of a blob in pieces, for programs that are not asynchronous."""
        for piece in obstore.get(self.store, self.path_of(digest)).stream(min_chunk_size=CHUNK):
            yield bytes(piece)

    def put(self, data: bytes) -> str:
        """Store `data`; returns its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if self.size(digest) is None:
            obstore.put(self.store, self.path_of(digest), data)
            self._settle(self.path_of(digest))
        return digest

    def put_pieces(self, pieces: Iterable[bytes], *, expected: str | None = None) -> tuple[str, int]:
        """Store what `pieces` give; returns digest and size. Raises IntegrityError if that is not `expected`."""
        path = f"uploads/direct/{secrets.token_hex(16)}"
        hashed, size = hashlib.sha256(), 0
        with obstore.open_writer(self.store, path, buffer_size=self._buffer) as writer:
            for piece in pieces:
                hashed.update(piece)
                size += len(piece)
                writer.write(piece)
        digest = f"sha256:{hashed.hexdigest()}"
        if expected not in (None, digest):
            obstore.delete(self.store, path)
            raise IntegrityError(f"The bytes have the digest {digest}, not {expected}.")
        self.adopt(path, digest)
        return digest, size

    async def write_part(
        self, upload: str, start: int, pieces: AsyncIterable[bytes], limit: int
    ) -> tuple[Part, Exception | None]:
        """Store what arrives, up to `limit` bytes, hashing it on the way.

        What arrived before a connection broke is kept: the part is returned together with the exception that ended it.
        """
        path = f"uploads/{upload}/{start:020d}-{secrets.token_hex(8)}"
        hashed, size = hashlib.sha256(), 0
        failure: Exception | None = None
        writer = obstore.open_writer_async(self.store, path, buffer_size=self._buffer)
        async with writer:
            try:
                async for piece in pieces:
                    if size + len(piece) > limit:
                        failure = OverflowError(f"more than {start + limit} bytes")
                        break
                    if piece:
                        hashed.update(piece)
                        size += len(piece)
                        await writer.write(piece)
            except Exception as error:  # noqa: BLE001 - whatever broke the stream, the caller decides
                failure = error
        return Part(start, size, path, f"sha256:{hashed.hexdigest()}"), failure

    def adopt(self, path: str, digest: str) -> None:
        """Make the finished piece at `path` the blob of `digest`. The caller has hashed it."""
        target = self.path_of(digest)
        if self.size(digest) is not None:
            self.discard([path])  # it may be gone: this very step was done before, and its answer lost
            return
        if self.folder is not None:
            os.makedirs((self.folder / target).parent, exist_ok=True)
        obstore.rename(self.store, path, target)
        self._settle(target)

    def join(self, parts: list[Part], expected: str) -> str:
        """Put the pieces together in order; returns the digest of the whole, kept as a blob only if it is `expected`."""
        if len(parts) == 1:
            digest = parts[0].digest
            if digest == expected:
                self.adopt(parts[0].path, digest)
            return digest
        path = f"uploads/joined/{secrets.token_hex(16)}"
        hashed = hashlib.sha256()
        with obstore.open_writer(self.store, path, buffer_size=self._buffer) as writer:
            for part in parts:
                for piece in obstore.get(self.store, part.path).stream(min_chunk_size=CHUNK):
                    hashed.update(piece)
                    writer.write(piece)
        digest = f"sha256:{hashed.hexdigest()}"
        if digest == expected:
            self.adopt(path, digest)
        else:
            obstore.delete(self.store, path)
        return digest

    def discard(self, paths: Iterable[str]) -> None:
        """Delete pieces; missing ones are fine."""
        for path in paths:
            if self.folder is not None:
                (self.folder / path).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # other pieces are in it
                    (self.folder / path).parent.rmdir()
                continue
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self.store, path)

    def delete(self, digest: str) -> None:
        """Delete a blob; a missing one is fine."""
        self.discard([self.path_of(digest)])

    def stored(self) -> Iterator[Stored]:
        """Every blob there is."""
        for batch in obstore.list(self.store, prefix="blobs/sha256"):
            for item in batch:
                name = str(item["path"]).rsplit("/", 1)[-1]
                if DIGEST.fullmatch(f"sha256:{name}"):
                    yield Stored(f"sha256:{name}", int(item["size"]), item["last_modified"])

    def pieces_before(self, moment: datetime) -> Iterator[str]:
        """Pieces of uploads last written before `moment`, and what a killed process left half-written."""
        if self.folder is None:
            for batch in obstore.list(self.store, prefix="uploads"):
                yield from (str(item["path"]) for item in batch if item["last_modified"] < moment)
            return
        # obstore hides what it has not finished: <name>#<number> beside the place where it would have gone
        for pattern in ("uploads/**/*", "blobs/**/*#*"):
            for path in self.folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and path.stat().st_mtime < moment.timestamp():
                        yield str(path.relative_to(self.folder))

    def check(self) -> None:
        """Write, read and delete a small object. Raises StorageError when that does not work."""
        path = f"uploads/check/{secrets.token_hex(8)}"
        try:
            obstore.put(self.store, path, b"adapterhub")
            if bytes(obstore.get(self.store, path).bytes()) != b"adapterhub":
                raise StorageError(f"The blob store {self.shown} does not give back what was written.")
            obstore.delete(self.store, path)
        except StorageError:
            raise
        except Exception as error:
            text = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise StorageError(f"The blob store {self.shown} cannot be written: {text}") from error

    def _settle(self, path: str) -> None:
        """On a local disk: wait until file and folder entry are on it. Object stores promise that by themselves."""
        if self.folder is None:
            return
        full = self.folder / path
        for place in (full, full.parent):
            descriptor = os.open(place, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _exactly(file: Any, count: int) -> bytes:
    """`count` bytes of an unbuffered file, or what there is."""
    pieces = []
    while count > 0 and (piece := file.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def open_blob_store(settings: Settings) -> BlobStore:
    """The blob store of `settings`: a folder (made if missing) or `s3://bucket[/prefix]`.

    Raises:
        StorageError: a folder that cannot be made or written, an address of an unknown kind.
    """
    address = settings.blobs
    if address.startswith("s3://"):
        return BlobStore(_s3_store(settings, address), None, address)
    if "://" in address and not address.startswith("file://"):
        raise StorageError(
            f"The blob store {address!r} is of no known kind.", hint="Give a folder or s3://BUCKET[/PREFIX]."
        )
    folder = Path(address.removeprefix("file://")).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("blobs", "uploads"):
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be used for blobs: {error.strerror or error}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"The folder {folder} cannot be used for blobs: no permission to write.")
    return BlobStore(LocalStore(folder), folder, str(folder))


def _s3_store(settings: Settings, address: str) -> Any:
    parts = urlsplit(address)
    options: dict[str, Any] = {"region": settings.s3_region}
    if settings.s3_endpoint:
        options["endpoint"] = settings.s3_endpoint
        options["virtual_hosted_style_request"] = False
    client = {"allow_http": True} if settings.s3_endpoint.startswith("http://") else {}
    try:
        return S3Store(parts.netloc, prefix=parts.path.strip("/") or None, client_options=client, **options)
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StorageError(f"The bucket {address} cannot be used: {text}") from error
