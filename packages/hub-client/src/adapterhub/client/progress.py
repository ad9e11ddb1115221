"""One progress display for everything a process transfers; silent where nobody looks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["transfer_display"]

#: transfers below this many bytes show nothing
_WORTH_SHOWING = 256 * 1024


class _Display:
    """The bars on the terminal: begins with the first transfer, ends with the last, a line for each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.progress: Any = None

    def enter(self, title: str, total: int) -> Any:
        with self.lock:
            if self.progress is None:
                from rich.console import Console
                from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

                columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
                # what the process prints on stdout meanwhile is data, and stays on stdout
                self.progress = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
                self.progress.start()
            self.users += 1
            return self.progress.add_task(title.replace("[", "\\["), total=total)

    def move(self, task: Any, done: int) -> None:
        progress = self.progress
        if progress is not None:
            progress.update(task, completed=done)

    def leave(self, task: Any) -> None:
        with self.lock:
            self.users -= 1
            self.progress.remove_task(task)
            if self.users == 0:
                self.progress.stop()
                self.progress = None


_display = _Display()


@contextmanager
def transfer_display(
    title: str, total: int, *, enabled: bool, report: Callable[[int, int], Any] | None = None
) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes of each piece, from any thread; negative ones are taken back.

    Args:
        title: what is transferred.
        total: bytes in all.
        enabled: the user's wish; shown only on a terminal all the same.
        report: called with (bytes so far, total) as well, for programs that draw their own bar.
    """
    lock = threading.Lock()
    done = 0
    shown = enabled and total >= _WORTH_SHOWING and sys.stderr is not None and sys.stderr.isatty()
    task = _display.enter(title, total) if shown else None

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            now = done
        if shown:
            _display.move(task, now)
        if report is not None:
            report(now, total)

    try:
        yield advance
    finally:
        if shown:
            _display.leave(task)
