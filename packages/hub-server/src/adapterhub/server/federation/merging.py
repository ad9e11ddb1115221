"""One index file made of ours and upstream's: ours as it is, and of upstream's the lines that touch nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

from adapterhub.spec.reference import fold

__all__ = ["merge_index"]


def merge_index(kind: str, own: bytes | None, theirs: bytes, owned: Set[str]) -> bytes | None:
    """The merged file.

    Args:
        kind: `ns`, `k` and `a` (buckets), `w` (words) or `m` (models), see spec.index; pages are like their files.
        own: our file, or None.
        theirs: upstream's file.
        owned: folded namespaces that are ours.
    """
    if kind == "ns":
        return own if own is not None else theirs
    if kind == "m":
        return _models(own, theirs)
    ours = _lines(own)
    taken = {_key(line) for line in ours}
    added = [line for line in _lines(theirs) if _key(line) not in taken and not _is_owned(line, owned)]
    if not added:
        return own
    first = sorted([*ours, *added], key=lambda line: "default" not in line)  # stable: ours stay before theirs
    return "".join(f"{_dump(line)}\n" for line in first).encode()


def _models(own: bytes | None, theirs: bytes) -> bytes:
    document = json.loads(theirs)
    if own is not None:
        mine = json.loads(own)
        document = {**mine, "models": {**document.get("models", {}), **mine["models"]}}
        document["models"] = dict(sorted(document["models"].items()))
    return f"{_dump(document)}\n".encode()


def _lines(body: bytes | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (body or b"").decode().splitlines() if line.strip()]


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    """What a line answers: ours wins for all of it."""
    if "word" in line:
        return str(line.get("model_name")), str(line.get("word"))
    return str(line.get("model_name")), fold(str(line.get("task", ""))), fold(str(line.get("subtask", "")))


def _is_owned(line: dict[str, Any], owned: Set[str]) -> bool:
    pointer = str(line.get("default", ""))
    namespace = pointer[1:].partition("/")[0] if pointer else str(line.get("namespace", ""))
    return fold(namespace) in owned


def _dump(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
