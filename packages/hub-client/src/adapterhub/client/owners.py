"""Whose a temporary file is: its name says which process makes it, on which machine, so that others know what is left over."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

__all__ = ["ALIVE", "ELSEWHERE", "GONE", "owner_of", "unique_name", "unowned_name"]

#: its process runs, as far as one can see
ALIVE = "alive"
#: it belongs to another machine or container and changed not long ago: not to be touched, but it may be read
ELSEWHERE = "elsewhere"
#: nobody is at work on it
GONE = "gone"

#: seconds without a change after which nobody is at work on it, whatever its name says
_ABANDONED = 24 * 3600.0
#: the same where it cannot be seen whether the process runs
_SILENT = 600.0


def unique_name() -> str:
    """A name no other process, thread or machine picks: process number, where that number counts, and 64 random bits."""
    return f"{os.getpid()}-{_here()}-{os.urandom(8).hex()}"


def unowned_name() -> str:
    """A name of the same kind that belongs to nobody."""
    return f"0-{_here()}-{os.urandom(8).hex()}"


def owner_of(path: Path) -> str:
    """Whether the process that `unique_name` put into the name of `path` may still be at work on it: ALIVE, ELSEWHERE or
    GONE."""
    number, _, rest = path.name.removesuffix(".part").rpartition(".")[2].partition("-")
    try:
        silent = time.time() - path.stat().st_mtime
    except OSError:
        return GONE
    if not number.isdigit() or int(number) == 0 or silent > _ABANDONED:
        return GONE
    if rest.partition("-")[0] != _here():
        return ELSEWHERE if silent < _SILENT else GONE
    if int(number) == os.getpid():
        return ALIVE
    if os.name == "nt":  # there, signal 0 is no question but Ctrl-C
        return ALIVE if silent < _SILENT else GONE
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return GONE
    except OSError:
        pass  # it runs, and belongs to somebody else
    return ALIVE


@cache
def _here() -> str:
    """Eight hex digits for this machine since it was started, or this container: process numbers mean the same in all of it."""
    import hashlib

    try:
        told = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        import platform

        told = platform.node()
    return hashlib.sha256(told.encode()).hexdigest()[:8]
