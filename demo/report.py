"""What the demo says while it runs: progress bars, the claims it checked, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console(highlight=False)


class DemoError(Exception):
    """A step could not be done or a claim is not so; the message says which and why."""


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over `total` steps; call the yielded function after each, with a short note."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda note: progress.update(task, advance=1, note=note)


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """A moving bar with the time elapsed, for what cannot be counted."""
    with Progress(TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(title, total=None)
        yield
        progress.update(task, total=1, completed=1)


@dataclass
class Report:
    """Steps, times, figures and claims of one run."""

    started: float = field(default_factory=time.monotonic)
    rows: list[tuple[str, float, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    checked: int = 0

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Time one step; what is appended to the yielded list becomes the step's figures."""
        console.print(f"[bold]{title}[/bold]")
        figures: list[str] = []
        start = time.monotonic()
        yield figures
        self.rows.append((title, time.monotonic() - start, "\n".join(figures)))

    def claim(self, holds: bool, text: str) -> None:
        """Check one claim: said at once, counted, and decisive for the exit status."""
        self.checked += 1
        console.print(f"  [green]✓[/green] {text}" if holds else f"  [bold red]✗ {text}[/bold red]")
        if not holds:
            self.broken.append(text)

    def print_summary(self) -> None:
        """The table of steps, times and figures, and the claims that were not so."""
        table = Table(title="The life cycle of an adapter", title_justify="left", show_lines=True)
        table.add_column("step", ratio=3)
        table.add_column("seconds", justify="right")
        table.add_column("figures", ratio=5)
        for title, seconds, figures in self.rows:
            table.add_row(title, f"{seconds:.1f}", figures)
        table.add_row(
            "[bold]total[/bold]",
            f"[bold]{time.monotonic() - self.started:.1f}[/bold]",
            f"{self.checked} claims checked",
        )
        console.print(table)
        for text in self.broken:
            console.print(f"[bold red]not so:[/bold red] {text}")
