"""What a plan runs at one site: a composition turned into operations over tensors, with every look-up done.

An operation maps (value, beside) to a new value. At a sublayer these are h' from h and r; at a linear map they are its output
and its input; at the embedding there is nothing beside. The first axis is the batch, the second the sequence. None stands for
"nothing here": the value passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.spec.composition import Average, BatchSplit, Composition, Fuse, Parallel, Split, Stack
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.plan import Rows
    from adapterhub.core.sites import HookedSite

__all__ = [
    "AtEmbedding",
    "AtSublayer",
    "Chain",
    "Chunks",
    "Mean",
    "Operation",
    "build",
    "rows_one_by_one",
]


class Operation:
    """Base of the operations.

    `needs_residual`: whether `beside` is read. `replaces_norm`: whether, in some rows, the model's norm(h' + r) is to be
    replaced by h'; `replaced(rows)` tells in which (None: all; else a bool tensor [rows, 1, 1]).
    """

    needs_residual: bool = False
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


class AtSublayer(Operation):
    """One bottleneck at a sublayer. `alone`: h + r is not read there, only h (parallel bottlenecks still read r)."""

    def __init__(self, module: nn.Module, norm: nn.Module | None, *, alone: bool = False) -> None:
        assert isinstance(module, Bottleneck)
        self.module, self.norm = module, norm
        self.alone = alone and not module.parallel
        self.replaces_norm = not module.norm_last
        self.needs_residual = module.needs_residual or (self.replaces_norm and norm is None)
        #: the usual kind runs straight from these tables of parameters, without a look-up of attributes of modules
        self.straight = module.plain and not module.depth_dropout and not module.skip_inside
        self.down, self.up = module.down._parameters, module.up._parameters
        self.act, self.scaling = module.act, module.scaling
        self.parallel, self.norm_first, self.skip_from = module.parallel, module.norm_first, module.skip_from

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        if not self.straight or torch.compiler.is_compiling():
            return self.module.forward(value, None if self.alone else beside, self.norm)
        read = skip = value
        if self.parallel:
            assert beside is not None
            read = beside
        else:
            if self.norm_first:
                if beside is not None and not self.alone:
                    read = value + beside
                if self.skip_from == "post_add":
                    skip = read
                if self.norm is not None:
                    read = self.norm.forward(read)
            if self.skip_from is False:
                skip = read
        down, up = self.down, self.up
        weight = down["weight"]
        assert weight is not None and up["weight"] is not None
        if read.dtype != weight.dtype and not torch.is_autocast_enabled(read.device.type):
            read = read.to(weight.dtype)
        result = F.linear(self.act(F.linear(read, weight, down["bias"])), up["weight"], up["bias"])
        if self.scaling != 1.0:
            result = result * self.scaling
        if self.module.dropout and self.module.training:
            result = F.dropout(result, self.module.dropout)
        result = skip + result
        return result if result.dtype == value.dtype else result.to(value.dtype)


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


class Chain(Operation):
    """One after the other: each sees the value the one before gave."""

    def __init__(self, parts: Sequence[Operation]) -> None:
        self.parts = list(parts)
        self.needs_residual = any(part.needs_residual for part in parts)
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
        self.replaces_norm = present[-1].replaces_norm

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
        if self.axis == 1:
            return self.parts[0].replaced(rows) if self.parts[0] is not None else None
        masks = []
        for part, size in zip(self.parts, self.sizes(rows), strict=True):
            mask = part.replaced(size) if part is not None and part.replaces_norm else None
            flag = part is not None and part.replaces_norm
            masks.append(torch.full((size, 1, 1), flag, dtype=torch.bool) if mask is None else mask)
        return torch.cat(masks)


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    """Chunks put together again. Chunks of a batch that grew to different lengths (prefixes) get zeros in front."""
    if axis == 0 and parts[0].dim() > 2 and len({part.shape[1] for part in parts}) > 1:
        length = max(part.shape[1] for part in parts)
        parts = [torch.nn.functional.pad(part, (0, 0, length - part.shape[1], 0)) for part in parts]
    return torch.cat(parts, axis)


def build(setup: Composition | Rows | str | None, site: HookedSite, *, expand: bool = False) -> Operation | None:
    """The operation of a composition at a site, or None where none of its adapters has a module."""
    from adapterhub.core.plan import Rows

    if setup is None:
        return None
    if isinstance(setup, str):
        module = site.find(setup)
        return None if module is None else site.leaf(module)
    if isinstance(setup, Rows):
        return site.rows(setup, expand=expand)
    if isinstance(setup, Fuse):
        return site.fuse(setup)
    if isinstance(setup, BatchSplit | Parallel) and all(isinstance(child, str) for child in setup.children):
        counts = setup.batch_sizes if isinstance(setup, BatchSplit) else None
        return site.chunks([str(child) for child in setup.children], counts, expand=expand)
    parts = [build(child, site, expand=expand) for child in setup.children]
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if isinstance(setup, Stack):
        return present[0] if len(present) == 1 else Chain(present)
    if isinstance(setup, Average):
        return Mean(parts, setup.shares())
    if isinstance(setup, Split):
        return Chunks(parts, setup.splits, 1)
    if isinstance(setup, BatchSplit):
        return Chunks(parts, setup.batch_sizes, 0, expand=expand)
    assert isinstance(setup, Parallel)
    return Chunks(parts, None, 0)


def rows_one_by_one(rows: Rows, site: HookedSite, *, expand: bool) -> Operation | None:
    """A different adapter in every row, runs of the same one together."""
    runs: list[tuple[str | None, int]] = []
    for name in rows.names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    parts = [build(name, site) for name, _ in runs]
    if all(part is None for part in parts):
        return None
    return Chunks(parts, [count for _, count in runs], 0, expand=expand)
