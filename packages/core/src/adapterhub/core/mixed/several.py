"""Adapters of several makes in the rows of one batch: those of one make run together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from adapterhub.core.operations import Operation, Where
from adapterhub.core.runs import Runs, remembered

__all__ = ["Several", "by_make"]

M = TypeVar("M")


def by_make(
    modules: Sequence[M | None],
    counts: Sequence[int] | None,
    make: Callable[[M], Hashable],
    together: Callable[[Sequence[M | None], Sequence[int] | None, bool], Operation],
    *,
    expand: bool,
    apart: bool = False,
) -> Operation | None:
    """The operation for runs of rows: `counts[i]` rows (None: equal shares of the batch) go through `modules[i]`.

    Args:
        modules: None for rows without an adapter here. The same module may come several times.
        make: what modules must agree in to run as one.
        together: the operation for modules of one make, with their counts and `expand`.
        expand: whether a batch k times as long makes every run k times as long.
        apart: whether rows without an adapter must be kept apart from those that run together, to stay what they are to the bit.

    Returns:
        None where there are no modules.
    """
    makes = list(dict.fromkeys(make(module) for module in modules if module is not None))
    if not makes:
        return None
    if len(makes) == 1 and not (apart and None in modules):
        return together(modules, counts, expand)
    parts = []
    for wanted in makes:
        runs = [i for i, module in enumerate(modules) if module is not None and make(module) == wanted]
        lengths = [1 if counts is None else counts[i] for i in runs]
        parts.append((runs, together([modules[i] for i in runs], lengths, True)))
    return Several(parts, Runs(len(modules), counts, expand=expand))


class Several(Operation):
    """Adapters of several makes in one batch: the rows of each make are picked, run together and put back. The others pass
    through."""

    def __init__(self, parts: Sequence[tuple[Sequence[int], Operation]], runs: Runs) -> None:
        self.parts, self.runs = [(list(mine), part) for mine, part in parts], runs
        self.needs_residual = any(part.needs_residual for _, part in parts)
        self.takes_sum = all(part.takes_sum for _, part in parts)
        self.replaces_norm = any(part.replaces_norm for _, part in parts)
        self.may_idle = sum(len(mine) for mine, _ in parts) < runs.number
        self._rows: dict[tuple[int, torch.device], list[Tensor]] = {}

    def rows_of_parts(self, rows: int, device: torch.device) -> list[Tensor]:
        """For each part, the numbers of its rows in a batch of this many."""
        return remembered(self._rows, (rows, device), lambda: self._of_parts(rows, device))

    def _of_parts(self, rows: int, device: torch.device) -> list[Tensor]:
        numbers = torch.arange(rows).split(self.runs.lengths(rows))
        return [torch.cat([numbers[run] for run in mine]).to(device) for mine, _ in self.parts]

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        result = value
        for index, (_, part) in zip(self.rows_of_parts(value.shape[0], value.device), self.parts, strict=True):
            other = None if beside is None else beside.index_select(0, index)
            result = result.index_copy(0, index, part(value.index_select(0, index), other))
        return result

    def inverse(self, value: Tensor) -> Tensor:
        result = value
        for index, (_, part) in zip(self.rows_of_parts(value.shape[0], value.device), self.parts, strict=True):
            result = result.index_copy(0, index, part.inverse(value.index_select(0, index)))
        return result

    def replaced(self, rows: int, tokens: int) -> Where:
        return self._marked(rows, [part.replaces_norm for _, part in self.parts])

    def idle(self, rows: int, tokens: int) -> Where:
        return self.may_idle and ~self._marked(rows, [True] * len(self.parts))

    def _marked(self, rows: int, flags: Sequence[bool]) -> Tensor:
        """Where the rows of the parts with a flag are: [rows, 1, 1]."""
        mask = torch.zeros(rows, 1, 1, dtype=torch.bool)
        for index, flag in zip(self.rows_of_parts(rows, torch.device("cpu")), flags, strict=True):
            if flag:
                mask[index] = True
        return mask
