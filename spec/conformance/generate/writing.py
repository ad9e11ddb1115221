"""Writes vector files: ASCII JSON, one vector a line, so that a change shows as the lines it touches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CONFORMANCE = Path(__file__).resolve().parent.parent


def line(value: Any) -> str:
    """One vector as one line of JSON."""
    return json.dumps(value, ensure_ascii=True)


def document(members: Mapping[str, Any]) -> str:
    """An object whose lists have one item a line."""
    parts = []
    for name, value in members.items():
        if isinstance(value, list):
            items = ",\n".join(f"    {line(item)}" for item in value)
            parts.append(f"  {line(name)}: [\n{items}\n  ]" if value else f"  {line(name)}: []")
        else:
            parts.append(f"  {line(name)}: {line(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(folder: Path, path: str, members: Mapping[str, Any]) -> None:
    """Writes `folder/path`."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(document(members), encoding="ascii")


def numbered(prefix: str, vectors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The vectors with ids `prefix-001`, `prefix-002`, … in front."""
    return [{"id": f"{prefix}-{number:03d}", **vector} for number, vector in enumerate(vectors, 1)]
