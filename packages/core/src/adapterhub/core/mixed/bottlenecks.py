"""A different bottleneck in every row of the batch, by two batched products for all adapters of one make."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.bank import Stacked, stack
from adapterhub.core.kept import Kept
from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.mixed.several import by_make
from adapterhub.core.operations import Operation, Where
from adapterhub.core.runs import numbered
from adapterhub.core.sublayers import LARGE, added, normed, rewritable

__all__ = ["MixedRows", "mixed_rows"]


def mixed_rows(
    modules: Sequence[Bottleneck | None],
    counts: Sequence[int] | None,
    norm: nn.Module | None,
    *,
    expand: bool,
    alone: bool = False,
) -> Operation | None:
    """The operation for runs of rows: `counts[i]` rows (None: equal shares of the batch) go through `modules[i]`.

    Args:
        modules: None for rows without an adapter here. The same module may come several times.
        norm: the model's norm of h + r.
        expand: whether a batch k times as long makes every run k times as long.
        alone: h + r is not read there, only h.
    """

    def together(modules: Sequence[Bottleneck | None], counts: Sequence[int] | None, expand: bool) -> MixedRows:
        return MixedRows(modules, counts, norm, expand=expand, alone=alone)

    return by_make(modules, counts, _make, together, expand=expand)


def _make(module: Bottleneck) -> tuple[object, ...]:
    """What bottlenecks must agree in to run as one."""
    return (
        module.parallel,
        module.norm_first,
        module.norm_last,
        module.skip_from,
        module.skip_inside,
        module.activation_name,
        module.norm_before is None,
        module.norm_after is None,
        module.gate is None,
        module.dropout,
        module.depth_dropout,
        next(module.parameters()).dtype,
    )


class MixedRows(Operation):
    """Runs of rows, each through one bottleneck of the same make, or through none."""

    def __init__(
        self,
        modules: Sequence[Bottleneck | None],
        counts: Sequence[int] | None,
        norm: nn.Module | None,
        *,
        expand: bool,
        alone: bool = False,
    ) -> None:
        present, self.batch = numbered(modules, counts, expand=expand)
        self.norm = norm
        self.model = present[0]
        self.act = torch.relu_ if self.model.act is torch.relu else self.model.act
        self.alone = alone and not self.model.parallel
        self.bare = self.may_idle = len(present) in self.batch.takes
        self.replaces_norm = not self.model.norm_last
        self.takes_sum = self.model.takes_sum and not alone
        self.needs_residual = self.model.needs_residual or (self.replaces_norm and norm is None)
        self.stacked = Kept(present, partial(stack, present, bare=self.bare))
        # where the skip connection is h, rows without adapter come out right by themselves (0 is added to h)
        self.masked = self.bare and (self.model.skip_from is not True or self.model.norm_after is not None)

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        model, rows = self.model, value.shape[0]
        weights = self.stacked.get()
        own = False
        if self.takes_sum and beside is None and self.norm is not None:
            skip = value
            read, own = normed(value, self.norm)
        else:
            read, skip = model.before(value, None if self.alone else beside, self.norm)
        if self.batch.even:
            self.batch.lengths(rows)  # raises where the batch does not fit
            shape = read.shape
            if rows != self.batch.number:
                read = read.reshape(self.batch.number, -1, shape[-1])
            result = self._through(read, weights, shape, own)
            if rows != self.batch.number:
                result = result.reshape(shape)
        else:
            result = self._picked(read, weights, own)
        if model.skip_inside and not model.parallel:
            result = result + skip
        if weights.norm_after is not None:
            result = self._normed(result, weights.norm_after, rows)
        if not model.skip_inside or model.parallel:
            result = added(skip, result, value.dtype)
        elif result.dtype != value.dtype:
            result = result.to(value.dtype)
        if self.masked:
            result = torch.where(self._has(rows, value.device), result, value)
        return result

    def _picked(self, value: Tensor, weights: Stacked, own: bool) -> Tensor:
        """The same for rows in any order. Few tokens are brought to the weights, sorted by adapter; to many, each row's weights."""
        rows, length, width = value.shape
        groups = self.batch.groups(rows, value.device) if length <= weights.down.shape[2] else None
        if groups is None:
            return self._through(value, weights.rows(self.batch.rows(rows, value.device)), value.shape, own)
        order, places = groups
        shape = torch.Size((order.shape[0], length, width))
        sorted_ = value.index_select(0, order).view(self.batch.things, -1, width)
        return self._through(sorted_, weights, shape, True).reshape(shape).index_select(0, places)

    def _through(self, value: Tensor, weights: Stacked, shape: torch.Size, own: bool) -> Tensor:
        """dropout(gate · up(value)) for each group of rows: [G, S, d] → [G, S, d]; `own`: `value` is nobody else's."""
        model = self.model
        if value.dtype != weights.down.dtype and not torch.is_autocast_enabled(value.device.type):
            value = value.to(weights.down.dtype)
        read = value
        if weights.norm_before is not None:
            weight, bias = weights.norm_before
            read = F.layer_norm(read, (read.shape[-1],)) * weight + bias
        inner = self.act(torch.baddbmm(weights.down_bias, read, weights.down))
        if own and weights.gate is None and read.numel() >= LARGE and rewritable(read):
            result = torch.baddbmm(weights.up_bias, inner, weights.up, out=read)
        else:
            result = torch.baddbmm(weights.up_bias, inner, weights.up)
        if model.training and (model.dropout or model.depth_dropout):
            if model.depth_dropout:
                per_row = result.reshape(shape[0], -1)
                keep = torch.rand(shape[0], 1, device=result.device) >= model.depth_dropout
                result = (per_row * keep.to(result.dtype) / (1 - model.depth_dropout)).reshape(result.shape)
            result = F.dropout(result, model.dropout)
        if weights.gate is not None:
            weight, bias = weights.gate
            gate = torch.sigmoid(torch.baddbmm(bias, value, weight))
            gate = gate.reshape(shape[0], -1, 1).mean(1, keepdim=True)
            result = (result.reshape(shape) * gate).reshape(result.shape)
        return result

    def _normed(self, value: Tensor, norm: tuple[Tensor, Tensor], rows: int) -> Tensor:
        numbers = self.batch.rows(rows, value.device)
        weight, bias = norm[0].index_select(0, numbers), norm[1].index_select(0, numbers)
        return F.layer_norm(value, (value.shape[-1],)) * weight + bias

    def _has(self, rows: int, device: torch.device) -> Tensor:
        return (self.batch.rows(rows, device) < (len(self.stacked.modules))).view(-1, 1, 1)

    def replaced(self, rows: int, tokens: int) -> Where:
        return self.replaces_norm and (self._has(rows, torch.device("cpu")) if self.bare else True)

    def idle(self, rows: int, tokens: int) -> Where:
        return self.bare and ~self._has(rows, torch.device("cpu"))
