"""How commands print: JSON when asked, a table on a terminal, tab-separated lines into a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "Style",
    "apply_options",
    "note",
    "print_fields",
    "print_json",
    "print_table",
    "readable_bytes",
    "readable_time",
    "style",
    "wrapped",
]


class Style:
    """What the user asked for before the command's name."""

    quiet = False
    color = True


style = Style()


def apply_options(*, quiet: bool = False, no_color: bool = False, offline: bool = False) -> None:
    """Take over the options before the command's name."""
    style.quiet, style.color = quiet, not no_color
    if quiet:
        os.environ["ADAPTERHUB_DISABLE_PROGRESS_BARS"] = "1"
    if offline:
        os.environ["ADAPTERHUB_OFFLINE"] = "1"


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, first_only: bool = False, optional: Sequence[str] = ()
) -> None:
    """Rows under headings on a terminal; tab-separated without headings elsewhere; only the first column with --quiet.

    Args:
        optional: columns a terminal too narrow for all of them does without, the first of them first.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if style.quiet or first_only:
        for row in texts:
            print(row[0])
    elif sys.stdout.isatty():
        if not texts:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(no_color=not _colored())
        columns, texts = _fitting(list(columns), texts, list(optional), console.width)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in texts:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    else:
        for row in texts:
            print("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))


def _fitting(
    columns: list[str], texts: list[list[str]], optional: list[str], room: int
) -> tuple[list[str], list[list[str]]]:
    """The table without optional columns until it is no wider than `room`."""
    from rich.cells import cell_len

    while optional:
        widths = [max(map(cell_len, cells)) for cells in zip(columns, *texts, strict=True)]
        if sum(widths) + 2 * (len(widths) - 1) <= room:
            break
        at = columns.index(optional.pop(0))
        columns = columns[:at] + columns[at + 1 :]
        texts = [row[:at] + row[at + 1 :] for row in texts]
    return columns, texts


def print_fields(fields: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    shown = {name: value for name, value in fields.items() if value not in (None, "", [], ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = str(value).strip()
        if sys.stdout.isatty():
            print(wrapped(f"{name:<{width}}  ", text, sys.stdout))
        else:
            print(f"{name}\t{text}")


def note(text: str) -> None:
    """A remark on stderr, unless --quiet."""
    if not style.quiet:
        print(wrapped("", text, sys.stderr), file=sys.stderr)


def wrapped(head: str, text: str, stream: Any) -> str:
    """`head` and `text`, on a terminal broken between words, further lines below the beginning of the text. What is copied
    from there (references, digests, folders) is never broken."""
    if not stream.isatty():
        return head + text
    import textwrap

    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 80
    room = max(20, columns - len(head))
    lines = [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, room, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return head + ("\n" + " " * len(head)).join(lines)


def readable_bytes(count: int | None) -> str:
    """`3.6 MB`; powers of 1000."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def readable_time(seconds: float) -> str:
    """`3 days ago`, from a number of seconds."""
    for length, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    return "just now"


def _colored() -> bool:
    return style.color and not os.environ.get("NO_COLOR")
