"""Which characters a name or a line of text may hold, so that it looks like what it is."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["JOINERS", "hidden_character", "is_plain"]

#: Zero-width non-joiner and joiner: letters of Persian and Indian names, and of some emoji, need them.
JOINERS = "\u200c\u200d"

_PLAIN_ASCII = re.compile(r"[\x20-\x7e]*")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def hidden_character(text: str, *, allow: str = "") -> str | None:
    """The first control, format (zero-width, bidirectional), surrogate or private-use character of `text`, if any.

    Args:
        allow: characters that are fine here, for example line ends in a description.
    """
    if _PLAIN_ASCII.fullmatch(text):
        return None
    return next((c for c in text if c not in allow and unicodedata.category(c) in _HIDDEN), None)


def is_plain(text: str, *, allow: str = "") -> bool:
    """Whether `text` holds visible characters and blanks only."""
    return hidden_character(text, allow=allow) is None
