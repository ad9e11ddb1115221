"""MkDocs hook: puts what stands in data and code into the pages, so that it cannot fall behind.

<!-- table of presets -->                 the presets of spec/presets
<!-- commands of adapterhub -->           every command with its arguments, as its own --help says
<!-- commands of adapterhub-server -->
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).resolve().parent.parent / "spec" / "presets"


def table_of_presets() -> str:
    """A Markdown table: name, other names, what it is, paper."""
    rows = ["| preset | also called | what it is | paper |", "|---|---|---|---|"]
    for path in sorted(PRESETS.glob("*.json")):
        preset = json.loads(path.read_text(encoding="utf-8"))
        aliases = ", ".join(f"`{alias}`" for alias in preset.get("aliases", ()))
        rows.append(f"| `{preset['name']}` | {aliases} | {preset['description']} | {preset['citation']} |")
    return "\n".join(rows)


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from _walk(command.commands[name], f"{path} {name}")
    elif not command.hidden:
        yield path, command


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _commands(command: Any, program: str) -> str:
    lines: list[str] = []
    for path, one in _walk(command, program):
        arguments = [p for p in one.params if p.param_type_name == "argument"]
        usage = " ".join([path, *((p.name or "").upper() + ("…" if p.nargs == -1 else "") for p in arguments)])
        lines += [f"### `{usage}`", "", _cell(one.help), ""]
        rows = []
        for parameter in one.params:
            help_text = _cell(getattr(parameter, "help", None))
            spelled = (parameter.name or "").upper() if parameter in arguments else ", ".join(parameter.opts)
            if parameter.name != "help" and help_text:
                rows.append(f"| `{spelled}` | {help_text} |")
        if rows:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def commands_of_adapterhub() -> str:
    """The client's commands and those that core adds."""
    from adapterhub.client.cli.app import build

    return _commands(build([]), "adapterhub")


def commands_of_adapterhub_server() -> str:
    """The server's commands."""
    import typer

    from adapterhub.server.cli import app

    return _commands(typer.main.get_command(app), "adapterhub-server")


MARKS = {
    "<!-- table of presets -->": table_of_presets,
    "<!-- commands of adapterhub -->": commands_of_adapterhub,
    "<!-- commands of adapterhub-server -->": commands_of_adapterhub_server,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    for mark, write in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return markdown
