"""Names for people of the identifiers of tasks, languages and data sets that a hub's own vocabulary does not describe."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import load_aliases

__all__ = ["known_name", "other_names", "titled"]


@lru_cache(maxsize=8192)
def titled(kind: str, task: str, subtask: str = "") -> str:
    """What to call a task (or language), or with `subtask` its data set (or domain): its common name, else the identifier
    written as a heading (`movie-snippets` → `Movie snippets`)."""
    found = known_name(kind, task, subtask)
    if found:
        return found
    identifier = subtask or task
    words = identifier.replace("-", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:] if any(letter.isalpha() for letter in words) else identifier


@lru_cache(maxsize=8192)
def known_name(kind: str, task: str, subtask: str = "") -> str:
    """The common name of a task, language or data set; empty where none is known."""
    shelf = "subtask" if subtask else kind
    return _names().get(shelf, {}).get(fold(subtask or task), "")


def other_names(task: str, subtask: str) -> tuple[str, ...]:
    """What else people call a task and data set: the keys of the spec's alias table that lead there."""
    found = _aliases()
    targets = (fold(task), fold(subtask), f"{fold(task)}/{fold(subtask)}")
    return tuple(dict.fromkeys(name for target in targets for name in found.get(target, ())))


@lru_cache(maxsize=1)
def _aliases() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, target in load_aliases().items():
        found.setdefault(fold(target), []).append(name)
    return found


@lru_cache(maxsize=1)
def _names() -> dict[str, dict[str, str]]:
    text = resources.files("adapterhub.server.catalogue").joinpath("data/names.json").read_text("utf-8")
    document: dict[str, dict[str, str]] = json.loads(text)
    return {shelf: names for shelf, names in document.items() if isinstance(names, dict)}
