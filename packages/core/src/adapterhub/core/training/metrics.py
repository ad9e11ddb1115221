"""The measures reported for each kind of task; plain tensors and lists, nothing to install."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["accuracy", "macro_f1", "micro_f1", "pearson", "perplexity", "span_f1", "spearman"]


def accuracy(guess: Tensor, truth: Tensor) -> float:
    """Share of equal entries."""
    return float((guess == truth).double().mean())


def macro_f1(guess: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for label in range(classes):
        hit = int(((guess == label) & (truth == label)).sum())
        total = int((guess == label).sum()) + int((truth == label).sum())
        if total:
            scores.append(2 * hit / total)
    return sum(scores) / len(scores) if scores else 0.0


def micro_f1(guess: Tensor, truth: Tensor) -> float:
    """2 TP / (2 TP + FP + FN) over all entries of two boolean tensors."""
    total = int(guess.sum()) + int(truth.sum())
    return 2 * int((guess & truth).sum()) / total if total else 0.0


def pearson(one: Tensor, other: Tensor) -> float:
    """Correlation of two vectors; 0 where one is constant."""
    one, other = one.double() - one.double().mean(), other.double() - other.double().mean()
    norm = float(one.norm() * other.norm())
    return float(one @ other) / norm if norm else 0.0


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlation of the ranks, ties sharing their mean rank."""
    return pearson(_ranks(one), _ranks(other))


def perplexity(loss: float) -> float:
    """exp of a mean cross-entropy."""
    return math.exp(min(loss, 700.0))


def span_f1(guess: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """F1 over exactly matching spans of BIO tags."""
    pairs = [(_spans(one), _spans(other)) for one, other in zip(guess, truth, strict=True)]
    hit = sum(len(one & other) for one, other in pairs)
    total = sum(len(one) + len(other) for one, other in pairs)
    return 2 * hit / total if total else 0.0


def _spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    found: set[tuple[int, int, str]] = set()
    start, kind = -1, ""
    for position, tag in enumerate([*tags, "O"]):
        if start >= 0 and tag != f"I-{kind}":
            found.add((start, position, kind))
            start = -1
        if tag.startswith("B-") or (tag.startswith("I-") and start < 0):
            start, kind = position, tag[2:]
    return found


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]
