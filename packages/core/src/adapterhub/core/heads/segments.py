"""Whose head computes which rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from adapterhub.core.overrides import current_override
from adapterhub.core.pool import Pool
from adapterhub.core.rows import Rows
from adapterhub.spec.composition import Average, BatchSplit, Composition, Fuse, Parallel, Split, Stack

__all__ = ["Segments", "head_names", "joint_name", "segments_of", "splits_rows"]

#: Rows of a batch and whose head computes them: `[("a", 2), (None, 1)]`; None is the model's own head.
Segments = list[tuple[str | None, int]]


class NamedHeads(Protocol):
    """Heads known by name."""

    def __contains__(self, name: object) -> bool: ...
    def names(self) -> list[str]: ...


def segments_of(pool: Pool, heads: NamedHeads, rows: int) -> Segments | None:
    """Whose head computes which rows of this call; None where it is the one in place."""
    override = current_override()
    plan = pool.plan if override is None else override.plan_for(pool)
    setup = plan.setup
    if isinstance(setup, Rows):
        each = max(1, rows // len(setup.names))
        found: Segments = []
        for name in setup.names:
            answers = head_names(name, heads.names(), each)
            head = answers[0][0] if answers else None
            if found and found[-1][0] == head:
                found[-1] = (head, found[-1][1] + each)
            else:
                found.append((head, each))
        return found
    if override is None and not splits_rows(setup):
        return None
    return head_names(setup, heads.names(), rows) or [(None, rows)]


def head_names(setup: Composition | str | None, available: Iterable[str], rows: int) -> Segments | None:
    """Whose head computes which rows of a batch of `rows`, for a setup.

    A Stack is answered for by its last child that has a head; Fuse and Average by the head named after the fusion, else by
    none; Parallel and BatchSplit by their children, each for its rows.
    """
    known = set(available)
    if isinstance(setup, Stack):
        for child in reversed(setup.children):
            found = head_names(child, known, rows)
            if found is not None and any(name is not None for name, _ in found):
                return found
        return None
    if isinstance(setup, (Parallel, BatchSplit)):
        sizes = list(setup.batch_sizes) if isinstance(setup, BatchSplit) else [rows // len(setup)] * len(setup)
        segments: Segments = []
        for child, size in zip(setup.children, sizes, strict=True):
            segments += head_names(child, known, size) or [(None, size)]
        return segments
    name = joint_name(setup)
    return [(name, rows)] if name in known else None


def joint_name(setup: Composition | str | None) -> str | None:
    if setup is None or isinstance(setup, str):
        return setup
    if isinstance(setup, Fuse):
        return setup.name or ",".join(setup.fused_names())
    if isinstance(setup, (Average, Split)):
        return ",".join(setup.names())
    return None


def splits_rows(setup: object) -> bool:
    return isinstance(setup, Composition) and any(isinstance(block, (Parallel, BatchSplit)) for block in setup.walk())
