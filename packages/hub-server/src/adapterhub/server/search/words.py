"""Text to search words, the same way for what is indexed and for what is asked.

Words are lower-case ASCII letters and digits as far as Unicode allows: compatibility forms and accents are folded away, and
everything else separates. A compound such as `sst-2` gives its parts and, joined, itself (`sst`, `2`, `sst2`), so that it is
found however it is written. Facets are words too: one per (field, value), by digest, so that filters cost no more than words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["MAX_QUERY_WORDS", "document_words", "facet_word", "is_facet_word", "query_words", "split_words", "title_of"]

#: Words of a question beyond these are ignored.
MAX_QUERY_WORDS = 12
_MAX_WORD = 40
_MAX_DOCUMENT_WORDS = 300
_COMPOUND = re.compile(r"[^\W_]+(?:[-_.+/][^\W_]+)*", re.UNICODE)
_PART = re.compile(r"[^\W_]+", re.UNICODE)
_FACET_MARK = "zqx"
#: too common in descriptions to tell adapters apart
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "for",
        "from",
        "in",
        "is",
        "it",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "was",
        "were",
        "with",
    ]
)


def normalise(text: str) -> str:
    """`text` without accents and compatibility forms, in lower case."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def split_words(text: str) -> list[str]:
    """The words of `text` in order, compounds followed by their joined form."""
    found: list[str] = []
    for compound in _COMPOUND.findall(normalise(text)):
        if compound.isalnum():
            found.append(compound[:_MAX_WORD])
            continue
        parts = [part[:_MAX_WORD] for part in _PART.findall(compound)]
        found.extend(parts)
        if 2 <= len(parts) <= 3 and sum(map(len, parts)) <= _MAX_WORD:
            found.append("".join(parts))
    return found


def query_words(text: str) -> list[str]:
    """What a question asks for: each word once, compounds by their parts only, at most `MAX_QUERY_WORDS`.

    Stop words are dropped unless nothing else is left.
    """
    parts = list(dict.fromkeys(part[:_MAX_WORD] for part in _PART.findall(normalise(text[:400]))))
    kept = [part for part in parts if part not in _STOP] or parts
    return [part for part in kept if not is_facet_word(part)][:MAX_QUERY_WORDS]


def title_of(text: str) -> str:
    """A name as a question would have to be to be exactly it: its words, joined."""
    return "-".join(query_words(text))


def document_words(texts: Iterable[str], facets: Iterable[tuple[str, str]]) -> str:
    """The words of one adapter, each once, with blanks between."""
    found: dict[str, None] = {}
    for text in texts:
        found.update(dict.fromkeys(_short_words(text) if len(text) <= _SHORT else _told_words(text)))
        if len(found) > _MAX_DOCUMENT_WORDS:
            break
    words = [*list(found)[:_MAX_DOCUMENT_WORDS], *(facet_word(field, value) for field, value in facets if value)]
    return " ".join(words)


def _told_words(text: str) -> tuple[str, ...]:
    """The words of a text that tell adapters apart."""
    return tuple(word for word in split_words(text) if word not in _STOP and not is_facet_word(word))


#: Models, tasks, publishers and licences come again and again; descriptions do not.
_SHORT = 40
_short_words = lru_cache(maxsize=4096)(_told_words)


@lru_cache(maxsize=8192)
def facet_word(field: str, value: str) -> str:
    """The word that stands for `field` having `value`."""
    return _FACET_MARK + hashlib.sha256(f"{field}\0{value}".encode()).hexdigest()[:12]


def is_facet_word(word: str) -> bool:
    """Whether `word` looks like `facet_word`'s; such words are never taken from texts or questions."""
    return len(word) == len(_FACET_MARK) + 12 and word.startswith(_FACET_MARK)
