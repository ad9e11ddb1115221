"""`Via` (RFC 9110 §7.6.3): which hubs a request came through, so that hubs that name one another as upstream ask in no circle."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["hubs_before", "via"]

#: what a hub calls itself there, before its id; whatever else stands in the header is another kind of proxy
_PREFIX = "adapterhub-"
_STEP = re.compile(rf"(?:[\w.+-]+/)?[\w.+-]+[ \t]+{_PREFIX}([\w-]{{1,64}})", re.ASCII)
_COMMENT = re.compile(r"\([^()]*\)")


def hubs_before(headers: Iterable[str]) -> tuple[str, ...]:
    """The ids of the hubs that passed a request on, the first one first, from all its `Via` headers."""
    steps = _COMMENT.sub("", ",".join(headers)).split(",")
    return tuple(found[1] for found in map(_STEP.match, map(str.strip, steps)) if found)


def via(hubs: Iterable[str]) -> str:
    """The header that names these hubs."""
    return ", ".join(f"1.1 {_PREFIX}{hub}" for hub in hubs)
