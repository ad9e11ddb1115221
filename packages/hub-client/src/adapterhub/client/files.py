"""Files that are either whole or not there: temporary name, fsync, atomic rename; and the errors of a full disk."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adapterhub.client.owners import unique_name
from adapterhub.spec.errors import StorageError

__all__ = [
    "alone_in",
    "discard",
    "remove_tree",
    "replace",
    "storage_errors",
    "sync_folder",
    "wait_for_lock",
    "write_atomically",
]

#: what to do if the cache cannot be written
OTHER_CACHE = "Set ADAPTERHUB_CACHE to a folder of your own; this one can stay as ADAPTERHUB_SHARED_CACHE."
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True, otherwise: str = OTHER_CACHE
) -> None:
    """Give `path` the content `data`, or leave it as it was.

    Args:
        path: its folder exists.
        mode: permission bits, set before the first byte is written.
        durable: wait until the disk has it.
        otherwise: what to do if it cannot be written.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name[:80]}.{unique_name()}.tmp")
    with storage_errors(path, otherwise):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            handle = os.open(temporary, flags, mode)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            replace(temporary, path)
        except BaseException:
            discard(temporary)
            raise
        if durable:
            sync_folder(path.parent)


def replace(source: Path, target: Path) -> None:
    """`os.replace`, tried again for a moment where another process has the target open (Windows)."""
    for attempt in range(20):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == 19:
                raise
            if target.exists():
                target.chmod(0o666)
            time.sleep(0.05)


def discard(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    try:
        if os.name == "nt":  # there, what cannot be written cannot be removed
            path.chmod(0o666)
        path.unlink()
    except OSError:
        pass


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as it can be removed."""
    import shutil

    for path in folder.rglob("*") if os.name == "nt" else ():
        try:
            path.chmod(0o777)
        except OSError:
            pass
    shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable, where the system can."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Be the only process that reads a file of `folder`, changes it and writes it back, so that of two changes at once
    neither is lost.

    Waits at most `patience` seconds for another one; goes on without where the system cannot lock a folder.
    """
    end = time.monotonic() + patience
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that cannot be made or read: writing into it says so
        yield
        return
    try:
        wait_for_lock(handle, lambda: time.monotonic() < end)
        yield
    finally:
        os.close(handle)


def wait_for_lock(handle: int, patient: Callable[[], bool]) -> None:
    """Lock an open file or folder until it is closed, waiting while `patient` says so; without a lock where the system, or the
    file system, has none."""
    try:
        import fcntl
    except ImportError:
        return
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR) or not patient():
                return
        time.sleep(0.02)


@contextmanager
def storage_errors(path: Path, otherwise: str = OTHER_CACHE) -> Iterator[None]:
    """Turn a full or unwritable disk into a `StorageError` that says which folder and what to do: `otherwise`, if it cannot
    be written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        folder = path if path.is_dir() else path.parent
        if error.errno in _FULL:
            raise StorageError(
                f"The disk is full: {folder} cannot take more.",
                hint="Free some space (adapterhub cache prune --older-than 30d) or set ADAPTERHUB_CACHE to another disk. "
                "Nothing half-written was kept.",
            ) from error
        if error.errno in _READ_ONLY:
            raise StorageError(f"{folder} cannot be written: {error.strerror}.", hint=otherwise) from error
        raise
