"""MkDocs hook: puts the table of presets, read from spec/presets, where a page says `<!-- table of presets -->`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).resolve().parent.parent / "spec" / "presets"
MARK = "<!-- table of presets -->"


def table() -> str:
    """A Markdown table: name, other names, what it is, paper."""
    rows = ["| preset | also called | what it is | paper |", "|---|---|---|---|"]
    for path in sorted(PRESETS.glob("*.json")):
        preset = json.loads(path.read_text(encoding="utf-8"))
        aliases = ", ".join(f"`{alias}`" for alias in preset.get("aliases", ()))
        rows.append(f"| `{preset['name']}` | {aliases} | {preset['description']} | {preset['citation']} |")
    return "\n".join(rows)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace(MARK, table())
