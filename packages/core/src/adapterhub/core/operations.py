"""Operations: what a plan runs at one site, over tensors, with every look-up done.

An operation maps (value, beside) to a new value. At a sublayer these are h' from h and r; at a linear map they are its output
and its input; at the embedding there is nothing beside. The first axis is the batch, the second the sequence. None stands for
"nothing here": the value passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from adapterhub.spec.errors import InvalidConfigError

__all__ = ["Added", "AtEmbedding", "BeforeNorm", "Chain", "Chunks", "Exchanged", "Mean", "Operation", "Where", "chosen"]

#: True everywhere, False nowhere, or a tensor of both that broadcasts to [B, T, 1]
Where: TypeAlias = bool | Tensor
#: tokens put in front of the first token of a row, and right behind it
Added: TypeAlias = tuple[int, int]


class Operation:
    """Base of the operations.

    `needs_residual`: whether `beside` is read. `takes_sum`: at a sublayer, whether the operation reads h only as h + r and adds
    to it, so that of (h + r, None) it gives h' + r; where the model forms that sum for its norm, neither needs to be formed
    twice. `replaces_norm`: whether, somewhere, the model's norm(h' + r) is to be replaced by h'. `may_idle`: whether, somewhere,
    nothing happens, for want of an adapter. `before_norm`: whether h is taken before the norm at the end of the sublayer.
    """

    needs_residual: bool = False
    takes_sum: bool = False
    replaces_norm: bool = False
    may_idle: bool = False
    before_norm: bool = False

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        raise NotImplementedError

    def replaced(self, rows: int, tokens: int) -> Where:
        """For which rows and tokens of [B, T, d] the model's norm is replaced."""
        return self.replaces_norm

    def idle(self, rows: int, tokens: int) -> Where:
        """For which rows and tokens nothing happens."""
        return False

    def tokens_added(self, rows: int) -> list[Added]:
        """How many tokens each row of a batch of this many gets; only prompts give any."""
        return [(0, 0)] * rows

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
        return chosen(self.replaced(value.shape[0], value.shape[1]), found, summed)

    def replaced(self, rows: int, tokens: int) -> Where:
        return self.inner.replaced(rows, tokens)

    def idle(self, rows: int, tokens: int) -> Where:
        return self.inner.idle(rows, tokens)


class BeforeNorm(Operation):
    """Another operation on what the norm at the end of a sublayer is given, instead of on what it gives: where adapters 1.3 runs
    bottlenecks in Gemma 2 and 3."""

    needs_residual = True
    before_norm = True

    def __init__(self, inner: Operation) -> None:
        self.inner = inner

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        return self.inner(value, beside)


class Chain(Operation):
    """One after the other: each sees the value the one before gave."""

    def __init__(self, parts: Sequence[Operation]) -> None:
        self.parts = list(parts)
        self.needs_residual = any(part.needs_residual for part in parts)
        self.takes_sum = all(part.takes_sum for part in parts)
        self.replaces_norm, self.may_idle = _of_last(parts)

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        for part in self.parts:
            value = part(value, beside)
        return value

    def replaced(self, rows: int, tokens: int) -> Where:
        return _last_acting(self.parts, rows, tokens)

    def idle(self, rows: int, tokens: int) -> Where:
        return _all_idle(self.parts, rows, tokens)

    def tokens_added(self, rows: int) -> list[Added]:
        return [reduce(_both, added) for added in zip(*(part.tokens_added(rows) for part in self.parts), strict=True)]


class Mean(Operation):
    """Weighted sum of what the children make of the same value; weights are already normalised."""

    def __init__(self, parts: Sequence[Operation | None], weights: Sequence[float]) -> None:
        self.parts, self.weights = list(parts), list(weights)
        present = [part for part in parts if part is not None]
        self.needs_residual = any(part.needs_residual for part in present)
        self.takes_sum = all(part.takes_sum for part in present) and abs(sum(self.weights) - 1) < 1e-6
        self.replaces_norm, self.may_idle = _of_last(present)
        self.present = present

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        total: Any = 0
        for part, weight in zip(self.parts, self.weights, strict=True):
            total = total + weight * (value if part is None else part(value, beside))
        found: Tensor = total
        return found

    def tokens_added(self, rows: int) -> list[Added]:
        return self.present[0].tokens_added(rows)  # children that differ in it cannot be summed

    def replaced(self, rows: int, tokens: int) -> Where:
        return _last_acting(self.present, rows, tokens)

    def idle(self, rows: int, tokens: int) -> Where:
        return _all_idle(self.present, rows, tokens)


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
        self.may_idle = len(present) < len(parts) or any(part.may_idle for part in present)

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

    def tokens_added(self, rows: int) -> list[Added]:
        if self.axis == 1:  # prompts inside of the text are taken as such in front of it
            parts = [part.tokens_added(rows) for part in self.parts if part is not None]
            return [(sum(map(sum, added)), 0) for added in zip(*parts, strict=True)]
        return [
            added
            for part, size in zip(self.parts, self.sizes(rows), strict=True)
            for added in ([(0, 0)] * size if part is None else part.tokens_added(size))
        ]

    def replaced(self, rows: int, tokens: int) -> Where:
        return self._cut(
            rows, tokens, lambda part, *shape: part is not None and part.replaces_norm and part.replaced(*shape)
        )

    def idle(self, rows: int, tokens: int) -> Where:
        return self.may_idle and self._cut(
            rows, tokens, lambda part, *shape: True if part is None else part.may_idle and part.idle(*shape)
        )

    def _cut(self, rows: int, tokens: int, of: Callable[[Operation | None, int, int], Where]) -> Tensor:
        """What holds for each chunk, put together: [rows, tokens, 1]."""
        masks = []
        for part, size in zip(self.parts, self.sizes((rows, tokens)[self.axis]), strict=True):
            shape = (size, tokens) if self.axis == 0 else (rows, size)
            mask = of(part, *shape)
            full = mask if isinstance(mask, Tensor) else torch.full((1, 1, 1), mask, dtype=torch.bool)
            masks.append(full.expand(*shape, 1))
        return torch.cat(masks, self.axis)


def chosen(where: Where, one: Tensor, other: Tensor) -> Tensor:
    """`one` where it says so, else `other`; both [B, T, d]."""
    if not isinstance(where, Tensor):
        return one if where else other
    return torch.where(where.to(one.device), one, other)


def _both(one: Added, other: Added) -> Added:
    """What two operations add after one another: the other takes for the first token what the one put in front."""
    front, behind = one
    return (front + sum(other), behind) if front else (other[0], behind + other[1])


def _of_last(parts: Sequence[Operation]) -> tuple[bool, bool]:
    """(replaces_norm, may_idle) where the last of several operations that acts has the say."""
    replaces = False
    for part in reversed(parts):
        replaces |= part.replaces_norm
        if not part.may_idle:
            return replaces, False
    return replaces, True


def _last_acting(parts: Sequence[Operation], rows: int, tokens: int) -> Where:
    found: Where = False
    for part in parts:
        now = part.replaces_norm and part.replaced(rows, tokens)
        idle = part.may_idle and part.idle(rows, tokens)
        found = now if idle is False else _either(idle, found, now)
    return found


def _either(where: Where, one: Where, other: Where) -> Where:
    if not isinstance(where, Tensor):
        return one if where else other
    return (where & one) | (~where & other)


def _all_idle(parts: Iterable[Operation], rows: int, tokens: int) -> Where:
    found: Where = True
    for part in parts:
        idle = part.may_idle and part.idle(rows, tokens)
        found = found & idle
    return found


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    """Chunks put together again. Chunks of a batch that grew to different lengths (prefixes) get zeros in front."""
    if axis == 0 and parts[0].dim() > 2 and len({part.shape[1] for part in parts}) > 1:
        length = max(part.shape[1] for part in parts)
        parts = [torch.nn.functional.pad(part, (0, 0, length - part.shape[1], 0)) for part in parts]
    return torch.cat(parts, axis)
