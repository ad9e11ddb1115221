"""A different LoRA or IA3 in every row of the batch, at one linear map: two batched products, or one, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import Kept
from adapterhub.core.methods.ia3 import IA3
from adapterhub.core.methods.lora import LoRA
from adapterhub.core.mixed.gates import RowGates
from adapterhub.core.mixed.several import by_make
from adapterhub.core.operations import Operation
from adapterhub.core.runs import Numbered, numbered

__all__ = ["MixedIA3", "MixedLoRA", "mixed_linears"]


def mixed_linears(
    modules: Sequence[nn.Module | None], counts: Sequence[int] | None, *, expand: bool
) -> Operation | None:
    """As `by_make`; None also where there are modules of other methods."""
    ours: list[Any] = [module if isinstance(module, LoRA | IA3) else None for module in modules]
    return by_make(ours, counts, _make, _together, expand=expand) if ours == list(modules) else None


def _make(module: LoRA | IA3) -> tuple[object, ...]:
    """What modules must agree in to run as one."""
    return type(module), module.dropout, next(module.parameters()).dtype


def _together(modules: Sequence[LoRA | IA3 | None], counts: Sequence[int] | None, expand: bool) -> MixedLoRA | MixedIA3:
    present, batch = numbered(modules, counts, expand=expand)
    updates = [module for module in present if isinstance(module, LoRA)]
    return MixedLoRA(updates, batch) if updates else MixedIA3([m for m in present if isinstance(m, IA3)], batch)


@dataclass(slots=True)
class _Updates:
    """A [N + 1, in, r], s · B [N + 1, r, out] and offsets [N + 1, 1, out], those of smaller rank filled up with 0; the last is 0."""

    a: Tensor
    b: Tensor
    bias: Tensor | None

    def first(self, number: int) -> _Updates:
        """Those of the first so many."""
        return _Updates(self.a[:number], self.b[:number], None if self.bias is None else self.bias[:number])

    def rows(self, index: Tensor) -> _Updates:
        """Those of each row."""
        bias = None if self.bias is None else self.bias.index_select(0, index)
        return _Updates(self.a.index_select(0, index), self.b.index_select(0, index), bias)


def _updated(value: Tensor | None, read: Tensor, weights: _Updates) -> Tensor:
    """value + read A B + bias, group by group: [G, S, out]; without value, read A B alone."""
    inner = torch.bmm(read, weights.a)
    if value is None:
        return torch.bmm(inner, weights.b)
    if inner.dtype == value.dtype == weights.b.dtype:
        result = torch.baddbmm(value, inner, weights.b)
    else:
        result = value + torch.bmm(inner, weights.b).to(value.dtype)
    return result if weights.bias is None else result + weights.bias.to(result.dtype)


class MixedLoRA(Operation):
    """Runs of rows, each through one LoRA, or through none. Several ranks and scales are fine, and so are gates and magnitudes
    of some.

    Args:
        modules: of one dtype and dropout.
        batch: which row takes which; the number after the last stands for none.
    """

    needs_residual = True

    def __init__(self, modules: Sequence[LoRA], batch: Numbered) -> None:
        self.modules, self.batch = list(modules), batch
        self.stacked = Kept(modules, partial(self._stack, self.modules))
        self.gates = RowGates.of([module.gate for module in modules], batch)
        self.norms = None
        if any(module.magnitude is not None for module in modules):
            self.norms = Kept([*modules, modules[0].linear.site.linear], partial(self._norms, self.modules))

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        assert beside is not None
        model, rows = self.modules[0], value.shape[0]
        weights = self.stacked.get()
        if beside.dtype != model.a.dtype and not torch.is_autocast_enabled(beside.device.type):
            beside = beside.to(model.a.dtype)
        dropped = F.dropout(beside, model.dropout) if model.dropout and model.training else beside
        read = dropped.reshape(rows, -1, beside.shape[-1])
        if self.gates is None and self.norms is None:
            given = value.reshape(rows, -1, value.shape[-1])
            return self._picked(given, read, weights).view(value.shape)
        update = self._picked(None, read, weights).view(value.shape)
        if self.gates is not None:
            update = update * self.gates(beside)
        result = self._placed(value, update.to(value.dtype))
        if weights.bias is not None:
            result = result + self._of_rows(weights.bias, result)
        return result

    def _placed(self, value: Tensor, update: Tensor) -> Tensor:
        """Value and update together: added, and where there are magnitudes brought to them."""
        if self.norms is None:
            return value + update
        factor, offset = (self._of_rows(part, value) for part in self.norms.get())
        return (value - offset + update) * factor + offset

    def _of_rows(self, stacked: Tensor, like: Tensor) -> Tensor:
        """What each row takes of [N + 1, 1, out], to go with [B, …, out]."""
        picked = stacked.index_select(0, self.batch.rows(like.shape[0], like.device)).to(like.dtype)
        return picked.view(-1, *[1] * (like.dim() - 2), picked.shape[-1])

    def _picked(self, value: Tensor | None, read: Tensor, weights: _Updates) -> Tensor:
        """value [B, S, out] (None: 0) with the update of each row's read [B, S, in]. Few tokens are brought to the weights,
        sorted by adapter; to many, each row's weights."""
        rows, length, inputs = read.shape
        width, things = weights.b.shape[2], self.batch.things
        if self.batch.even:
            self.batch.lengths(rows)  # raises where the batch does not fit
            given = None if value is None else value.reshape(things, -1, width)
            return _updated(given, read.reshape(things, -1, inputs), weights.first(things)).view(rows, length, width)
        groups = self.batch.groups(rows, read.device) if length <= weights.a.shape[2] else None
        if groups is None:
            return _updated(value, read, weights.rows(self.batch.rows(rows, read.device)))
        order, places = groups
        given = None if value is None else value.index_select(0, order).view(things, -1, width)
        found = _updated(given, read.index_select(0, order).view(things, -1, inputs), weights.first(things))
        return found.view(-1, length, width).index_select(0, places)

    @staticmethod
    def _stack(modules: Sequence[LoRA]) -> _Updates:
        size = max(module.a.shape[0] for module in modules)
        a = [F.pad(module.a.t(), (0, size - module.a.shape[0])) for module in modules]
        b = [F.pad(module.scale * module.b.t(), (0, 0, 0, size - module.b.shape[1])) for module in modules]
        bias = None
        if any(module.bias is not None for module in modules):
            nothing = b[0].new_zeros(b[0].shape[1])
            offsets = [nothing if module.bias is None else module.bias for module in modules]
            bias = torch.stack([*offsets, nothing]).unsqueeze(1)
        return _Updates(torch.stack([*a, torch.zeros_like(a[0])]), torch.stack([*b, torch.zeros_like(b[0])]), bias)

    @staticmethod
    def _norms(modules: Sequence[LoRA]) -> tuple[Tensor, Tensor]:
        """Factors m / ‖W + s B A‖ and what they leave alone, the bias of the map, both [N + 1, 1, out]; where there is no
        magnitude 1 and 0."""
        like = next(module.magnitude for module in modules if module.magnitude is not None)
        found = [module.norms() or (torch.ones_like(like), None) for module in modules]
        factors = [factor for factor, _ in found] + [torch.ones_like(like)]
        offsets = [torch.zeros_like(like) if bias is None else bias.to(like.dtype) for _, bias in found]
        offsets.append(torch.zeros_like(like))
        return torch.stack(factors).unsqueeze(1), torch.stack(offsets).unsqueeze(1)


class MixedIA3(Operation):
    """Runs of rows, each rescaled by one IA3, or by none; some may have gates.

    Args:
        modules: of one dtype and dropout.
        batch: which row takes which; the number after the last stands for none.
    """

    needs_residual = True

    def __init__(self, modules: Sequence[IA3], batch: Numbered) -> None:
        self.modules, self.batch = list(modules), batch
        self.stacked = Kept(modules, partial(self._stack, self.modules))
        self.gates = RowGates.of([module.gate for module in modules], batch)

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        model, rows = self.modules[0], self.batch.rows(value.shape[0], value.device)
        scales = self.stacked.get().index_select(0, rows)
        scales = scales.view(-1, *[1] * (value.dim() - 2), scales.shape[-1])
        if self.gates is not None:
            assert beside is not None
            scales = scales * self.gates(beside)
        if model.dropout and model.training:
            adapted = (rows < len(self.modules)).view(-1, *[1] * (scales.dim() - 1))
            scales = torch.where(adapted, F.dropout(scales, model.dropout), scales)
        return (value * scales).to(value.dtype)

    @staticmethod
    def _stack(modules: Sequence[IA3]) -> Tensor:
        """Scales [N + 1, width]; the last is 1."""
        scales = [module.scale * module.alpha for module in modules]
        return torch.stack([*scales, torch.ones_like(scales[0])])
