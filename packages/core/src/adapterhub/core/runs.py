"""Which rows of a batch go where: runs of consecutive rows, each of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from adapterhub.spec.errors import InvalidConfigError

__all__ = ["Numbered", "Runs", "numbered", "remembered"]

T = TypeVar("T")


class Runs:
    """How a batch falls into runs of rows.

    Args:
        number: of runs.
        counts: rows of each run; None for equal parts of the batch.
        expand: whether a batch k times as long makes every run k times as long.
    """

    def __init__(self, number: int, counts: Sequence[int] | None, *, expand: bool) -> None:
        self.number, self.counts, self.expand = number, None if counts is None else list(counts), expand

    def planned(self) -> int:
        """The rows (or equal parts) planned for."""
        return self.number if self.counts is None else sum(self.counts)

    def lengths(self, rows: int) -> list[int]:
        """Length of each run in a batch of this many rows.

        Raises:
            InvalidConfigError: the batch does not fit.
        """
        planned = self.planned()
        if planned == rows and self.counts is not None:
            return self.counts
        times, rest = divmod(rows, max(1, planned))
        if rest or not times or not (self.expand or self.counts is None):
            raise InvalidConfigError(
                f"Adapters are planned for {planned} rows, but the batch has {rows}.",
                hint="Give one adapter name for each row of the batch (batch_sizes that add up to it).",
            )
        return [times * count for count in self.counts or [1] * self.number]


class Numbered(Runs):
    """Runs of rows, each of which takes one of N things by its number.

    Args:
        takes: the number of each run.
    """

    def __init__(self, takes: Sequence[int], counts: Sequence[int] | None, *, expand: bool) -> None:
        super().__init__(len(takes), counts, expand=expand)
        self.takes = list(takes)
        #: runs of one length, each thing in its turn: all N serve as they are, without picking
        self.even = self.takes == list(range(len(self.takes))) and len(set(counts or [0])) == 1
        self.things = max(self.takes) + 1
        self._rows: dict[tuple[int, torch.device], Tensor] = {}
        self._groups: dict[tuple[int, torch.device], tuple[Tensor, Tensor] | None] = {}

    def rows(self, rows: int, device: torch.device) -> Tensor:
        """The number of each row [rows]."""
        return remembered(self._rows, (rows, device), lambda: torch.tensor(self.numbers(rows), device=device))

    def numbers(self, rows: int) -> list[int]:
        """The same as a list."""
        lengths = self.lengths(rows)
        return [take for take, length in zip(self.takes, lengths, strict=True) for _ in range(length)]

    def groups(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The rows sorted by what they take, in N groups of one length, filled up with row 0: the row at each place
        [N · length], and the place of each row [rows]. None where that would more than double the rows."""
        return remembered(self._groups, (rows, device), lambda: self._grouped(rows, device))

    def _grouped(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        numbers = self.numbers(rows)
        length = max(numbers.count(number) for number in range(self.things))
        if self.things * length > 2 * rows:
            return None
        filled = [number * length for number in range(self.things)]
        order, places = [0] * (self.things * length), []
        for row, number in enumerate(numbers):
            order[filled[number]] = row
            places.append(filled[number])
            filled[number] += 1
        return torch.tensor(order, device=device), torch.tensor(places, device=device)


def numbered(things: Sequence[T | None], counts: Sequence[int] | None, *, expand: bool) -> tuple[list[T], Numbered]:
    """The different things that runs of rows take, and which row takes which; rows that take None have the number after the
    last."""
    present = list(dict.fromkeys(thing for thing in things if thing is not None))
    number = {thing: i for i, thing in enumerate(present)}
    takes = [len(present) if thing is None else number[thing] for thing in things]
    return present, Numbered(takes, counts, expand=expand)


def remembered(known: dict[tuple[int, torch.device], T], key: tuple[int, torch.device], make: Callable[[], T]) -> T:
    """What `make` gives for this many rows on this device, kept for the last eight; never as tensors of inference mode."""
    if key in known:
        return known[key]
    if torch.compiler.is_compiling():
        return make()
    with torch.inference_mode(False):  # graphs of later calls may need it
        found = make()
    if len(known) >= 8:
        known.clear()
    known[key] = found
    return found
