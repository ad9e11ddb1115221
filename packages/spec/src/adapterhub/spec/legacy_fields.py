"""Repairs of single members of the 2020 hub's files: handles, contacts, languages, config ids. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

__all__ = [
    "contact_flaw",
    "github_handle",
    "hub_config_id",
    "language_tag",
    "language_tags",
    "mentions_score",
    "task_id",
    "twitter_handle",
]

_GITHUB = re.compile(r"(?:https?://(?:www\.)?github\.com/|@)?([A-Za-z0-9](?:[A-Za-z0-9-]{0,38}))/?")
_TWITTER = re.compile(r"(?:https?://(?:www\.)?(?:twitter|x)\.com/|@)?([A-Za-z0-9_]{1,15})/?")
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")
_SCORE = re.compile(r"\b(?:achiev\w*|score of|accuracy of|reach\w*)\b[^.]{0,40}?\b\d{1,3}(?:\.\d+)?", re.IGNORECASE)
_NAMES_MISSPELT = {"joans": "jonas"}


@cache
def _languages() -> dict[str, dict[str, str]]:
    data = resources.files("adapterhub.spec") / "data" / "legacy" / "languages.json"
    found: dict[str, dict[str, str]] = json.loads(data.read_text(encoding="utf-8"))
    return found


def language_tag(text: str) -> str | None:
    """The BCP 47 tag for a language as the 2020 hub wrote it: a code, one of its own codes, or an English name."""
    known = _languages()
    found = known["tags"].get(text) or known["names"].get(text.strip().lower())
    if found is not None:
        return found
    return text if _TAG.fullmatch(text) and len(text.partition("-")[0]) <= 3 else None


def language_tags(text: str) -> tuple[str, ...]:
    """The tags of a comma-separated list, each once, in order; what is no language is left out."""
    tags = [language_tag(part.strip()) for part in text.split(",")]
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def github_handle(text: str) -> str | None:
    """The bare handle of a GitHub handle or address; None if it is neither."""
    match = _GITHUB.fullmatch(text.strip())
    return match[1] if match else None


def twitter_handle(text: str) -> str | None:
    """The bare handle of `@handle`, `handle` or an address; None if it is neither."""
    match = _TWITTER.fullmatch(text.strip())
    return match[1] if match else None


def contact_flaw(email: str) -> str | None:
    """What is wrong with a recorded e-mail address: the kind of repair, or None."""
    if re.search(r"[;,\s]", email):
        return "contact-several"
    local, _, host = email.partition("@")
    if not re.search(r"\.[A-Za-z]{2,10}$", host):
        return "contact-incomplete"
    return "contact-misspelt" if local.lower() in _NAMES_MISSPELT else None


def task_id(text: str) -> str:
    """A task id without characters no reference can hold (one has a stray quote)."""
    return re.sub(r"[^A-Za-z0-9._+-]", "", text).lstrip("._+-")


def mentions_score(text: str) -> bool:
    """Whether a description says what score was reached."""
    return _SCORE.search(text) is not None


def hub_config_id(config: Mapping[str, Any]) -> str:
    """The 2020 hub's id of an expanded config: the start of a sha1 over Python's JSON of its truthy members. Numbers go in
    as they were written, so 2 and 2.0 differ."""
    kept = {key: value for key, value in config.items() if value}
    return hashlib.sha1(json.dumps(kept, sort_keys=True).encode(), usedforsecurity=False).hexdigest()[:16]
