"""Names for people of the identifiers of tasks, languages and data sets that a hub's own vocabulary does not describe."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from adapterhub.spec.reference import fold

__all__ = ["known_name", "titled"]


def titled(kind: str, task: str, subtask: str = "") -> str:
    """What to call a task (or language), or with `subtask` its data set (or domain): its common name, else the identifier
    written as a heading (`movie-snippets` → `Movie snippets`)."""
    found = known_name(kind, task, subtask)
    if found:
        return found
    identifier = subtask or task
    words = identifier.replace("-", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:] if any(letter.isalpha() for letter in words) else identifier


def known_name(kind: str, task: str, subtask: str = "") -> str:
    """The common name of a task, language or data set; empty where none is known."""
    shelf = "subtask" if subtask else kind
    return _names().get(shelf, {}).get(fold(subtask or task), "")


@lru_cache(maxsize=1)
def _names() -> dict[str, dict[str, str]]:
    text = resources.files("adapterhub.server.catalogue").joinpath("data/names.json").read_text("utf-8")
    document: dict[str, dict[str, str]] = json.loads(text)
    return {shelf: names for shelf, names in document.items() if isinstance(names, dict)}
