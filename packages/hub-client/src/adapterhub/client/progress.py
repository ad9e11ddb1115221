"""One progress display for all downloads or uploads of a call; silent where nobody looks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["transfer_display"]

#: transfers below this many bytes show nothing
_WORTH_SHOWING = 256 * 1024


@contextmanager
def transfer_display(
    title: str, total: int, *, enabled: bool, report: Callable[[int, int], Any] | None = None
) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes of each piece; negative ones are taken back.

    Args:
        title: what is transferred.
        total: bytes in all.
        enabled: the user's wish; shown only on a terminal all the same.
        report: called with (bytes so far, total) as well, for programs that draw their own bar.
    """
    lock = threading.Lock()
    done = 0
    shown: Any = None
    task: Any = None
    if enabled and total >= _WORTH_SHOWING and sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = shown.add_task(title, total=total)
        shown.start()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if shown is not None:
                shown.update(task, completed=done)
            if report is not None:
                report(done, total)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.stop()
