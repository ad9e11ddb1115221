"""Movie-review snippets as a classification task: the label is the sign of the mean rating, the split a hash of the text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Snippet:
    """One snippet; label 0 is negative, 1 positive."""

    text: str
    label: int


def parse(table: str) -> list[Snippet]:
    """Every snippet rated above or below zero, in the order of the table."""
    snippets = []
    for line in table.splitlines():
        _number, rating, text = line.split("\t", 2)
        if float(rating) != 0:
            snippets.append(Snippet(text.strip(), int(float(rating) > 0)))
    return snippets


def is_test(snippet: Snippet) -> bool:
    """A tenth of the snippets, the same on every machine: those whose text has a SHA-256 divisible by 10."""
    return int(hashlib.sha256(snippet.text.encode()).hexdigest(), 16) % 10 == 0


def split(snippets: list[Snippet]) -> tuple[list[Snippet], list[Snippet]]:
    """(train, test)."""
    return [s for s in snippets if not is_test(s)], [s for s in snippets if is_test(s)]


def majority(train: list[Snippet], test: list[Snippet]) -> float:
    """Test accuracy of always answering the commoner label of the training snippets."""
    answer = int(sum(s.label for s in train) * 2 > len(train))
    return sum(s.label == answer for s in test) / len(test)
