"""Operations: what a plan runs at one site, over tensors, with every look-up done.

An operation maps (value, beside) to a new value. At a sublayer these are h' from h and r; at a linear map they are its output
and its input; at the embedding there is nothing beside. The first axis is the batch, the second the sequence. None stands for
"nothing here": the value passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.spec.errors import InvalidConfigError

__all__ = ["AtEmbedding", "Chain", "Chunks", "Exchanged", "Mean", "Operation"]


class Operation:
    """Base of the operations.

    `needs_residual`: whether `beside` is read. `takes_sum`: at a sublayer, whether the operation reads h only as h + r and adds
    to it, so that of (h + r, None) it gives h' + r; where the model forms that sum for its norm, neither needs to be formed twice. `replaces_norm`: whether, in some rows, the model's norm(h' + r) is to be
    replaced by h'; `replaced(rows)` tells in which (None: all; else a bool tensor [rows, 1, 1], or [rows, T, 1] by token).
    """

    needs_residual: bool = False
    takes_sum: bool = False
    replaces_norm: bool = False

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        raise NotImplementedError

    def replaced(self, rows: int) -> Tensor | None:
        return None

    def planned(self) -> int | None:
        """For how many rows of the batch (or equal parts of it) this was planned; None where rows do not matter."""
        return None

    def inverse(self, value: Tensor) -> Tensor:
        """The value this operation turns into `value`; only invertible adapters have one."""
        raise NotImplementedError(f"{type(self).__name__} cannot be undone")


class AtEmbedding(Operation):
    """One invertible adapter on the embedded text."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        return self.module.forward(value)

    def inverse(self, value: Tensor) -> Tensor:
        """The value of which this operation gives `value`."""
        found: Tensor = self.module.inverse(value)  # type: ignore[operator]
        return found


class Exchanged(Operation):
    """Another operation with h and r exchanged, and the model's norm of what it gives plus h: what adapters 1.3 runs after
    ALBERT's attention. `beside` is given back to the model, which adds it."""

    needs_residual = True

    def __init__(self, inner: Operation) -> None:
        self.inner = inner
        self.replaces_norm = inner.replaces_norm

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        assert beside is not None
        found = self.inner(beside, value)
        summed = found + value - beside
        if not self.replaces_norm:
            return summed
        mask = self.replaced(value.shape[0])
        return found if mask is None else torch.where(mask.to(found.device), found, summed)

    def replaced(self, rows: int) -> Tensor | None:
        return self.inner.replaced(rows)

    def planned(self) -> int | None:
        return self.inner.planned()


class Chain(Operation):
    """One after the other: each sees the value the one before gave."""

    def __init__(self, parts: Sequence[Operation]) -> None:
        self.parts = list(parts)
        self.needs_residual = any(part.needs_residual for part in parts)
        self.takes_sum = all(part.takes_sum for part in parts)
        self.replaces_norm = parts[-1].replaces_norm

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        for part in self.parts:
            value = part(value, beside)
        return value

    def replaced(self, rows: int) -> Tensor | None:
        return self.parts[-1].replaced(rows)

    def planned(self) -> int | None:
        return next((count for part in self.parts if (count := part.planned()) is not None), None)


class Mean(Operation):
    """Weighted sum of what the children make of the same value; weights are already normalised."""

    def __init__(self, parts: Sequence[Operation | None], weights: Sequence[float]) -> None:
        self.parts, self.weights = list(parts), list(weights)
        present = [part for part in parts if part is not None]
        self.needs_residual = any(part.needs_residual for part in present)
        self.takes_sum = all(part.takes_sum for part in present) and abs(sum(self.weights) - 1) < 1e-6
        self.last = present[-1]
        self.replaces_norm = self.last.replaces_norm

    def replaced(self, rows: int) -> Tensor | None:
        return self.last.replaced(rows)

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        total: Any = 0
        for part, weight in zip(self.parts, self.weights, strict=True):
            total = total + weight * (value if part is None else part(value, beside))
        found: Tensor = total
        return found


class Chunks(Operation):
    """The batch (axis 0) or the sequence (axis 1) cut into consecutive parts, each with its own operation.

    Args:
        parts: one operation a chunk; None passes through.
        sizes: length of each chunk; None for equal ones.
        expand: whether a batch k times as long makes every chunk k times as long.
    """

    def __init__(
        self, parts: Sequence[Operation | None], sizes: Sequence[int] | None, axis: int, *, expand: bool = False
    ) -> None:
        self.parts, self.axis, self.expand = list(parts), axis, expand
        self.given = None if sizes is None else list(sizes)
        present = [part for part in parts if part is not None]
        self.needs_residual = any(part.needs_residual for part in present)
        self.takes_sum = all(part.takes_sum for part in present)
        self.replaces_norm = any(part.replaces_norm for part in present)

    def sizes(self, length: int) -> list[int]:
        """The length of each chunk of a batch or sequence of this length."""
        if self.given is None:
            size, rest = divmod(length, len(self.parts))
            if rest:
                raise InvalidConfigError(f"A batch of {length} rows cannot be cut into {len(self.parts)} equal parts.")
            return [size] * len(self.parts)
        total = sum(self.given)
        if total == length:
            return self.given
        if self.expand and total and length % total == 0:
            return [size * (length // total) for size in self.given]
        what = "batch_sizes" if self.axis == 0 else "splits"
        raise InvalidConfigError(
            f"{what}={self.given} add up to {total}, but the {'batch' if self.axis == 0 else 'sequence'} has {length}.",
            hint=f"Set the composition anew with {what} that fit the input.",
        )

    def inverse(self, value: Tensor) -> Tensor:
        parts = zip(self.parts, value.split(self.sizes(value.shape[self.axis]), self.axis), strict=True)
        return torch.cat([one if part is None else part.inverse(one) for part, one in parts], self.axis)

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        sizes = self.sizes(value.shape[self.axis])
        values = value.split(sizes, self.axis)
        besides: Sequence[Tensor | None] = [None] * len(sizes) if beside is None else beside.split(sizes, self.axis)
        done = [
            one if part is None or one.shape[self.axis] == 0 else part(one, other)
            for part, one, other in zip(self.parts, values, besides, strict=True)
        ]
        return _joined(done, self.axis)

    def planned(self) -> int | None:
        if self.axis == 1:
            return None
        return len(self.parts) if self.given is None else sum(self.given)

    def replaced(self, rows: int) -> Tensor | None:
        tokens = self.axis == 1  # then each chunk has all rows, and its own stretch of the tokens
        sizes = self.sizes(sum(self.given or ())) if tokens else self.sizes(rows)
        masks = [_mask(part, rows if tokens else size) for part, size in zip(self.parts, sizes, strict=True)]
        if tokens:
            return torch.cat([mask.expand(-1, size, -1) for mask, size in zip(masks, sizes, strict=True)], 1)
        width = max(mask.shape[1] for mask in masks)
        return torch.cat([mask.expand(-1, width, -1) for mask in masks])


def _mask(part: Operation | None, rows: int) -> Tensor:
    """In which of these rows (and tokens) the operation replaces the model's norm: [rows, 1 or T, 1]."""
    if part is None or not part.replaces_norm:
        return torch.zeros(rows, 1, 1, dtype=torch.bool)
    mask = part.replaced(rows)
    return torch.ones(rows, 1, 1, dtype=torch.bool) if mask is None else mask


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    """Chunks put together again. Chunks of a batch that grew to different lengths (prefixes) get zeros in front."""
    if axis == 0 and parts[0].dim() > 2 and len({part.shape[1] for part in parts}) > 1:
        length = max(part.shape[1] for part in parts)
        parts = [torch.nn.functional.pad(part, (0, 0, length - part.shape[1], 0)) for part in parts]
    return torch.cat(parts, axis)
