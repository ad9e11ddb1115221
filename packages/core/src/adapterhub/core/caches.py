"""Keys and values of tokens seen in earlier calls, under the names transformers has had for them: `cache` since 5.24,
`past_key_values` before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CACHE_NAMES", "seen_before"]

CACHE_NAMES = ("cache", "past_key_values")


def seen_before(kwargs: Mapping[str, Any]) -> int:
    """How many tokens were seen in earlier calls, by the keyword arguments of this one."""
    for name in CACHE_NAMES:
        cache = kwargs.get(name)
        if cache is not None:
            return int(cache.get_seq_length())
    return 0
