"""A different ReFT in every row of the batch, at the output of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import Kept
from adapterhub.core.methods.reft import Intervention, Reft
from adapterhub.core.mixed.several import by_make
from adapterhub.core.operations import Operation
from adapterhub.core.runs import Numbered, numbered

__all__ = ["MixedReft", "mixed_layers"]


def mixed_layers(
    modules: Sequence[nn.Module | None], counts: Sequence[int] | None, *, expand: bool
) -> Operation | None:
    """As `by_make`; None also where there are modules of other methods."""
    ours = [module if isinstance(module, Reft) else None for module in modules]
    return by_make(ours, counts, _make, _together, expand=expand) if ours == list(modules) else None


def _together(modules: Sequence[Reft | None], counts: Sequence[int] | None, expand: bool) -> MixedReft:
    return MixedReft(*numbered(modules, counts, expand=expand))


def _make(module: Reft) -> tuple[object, ...]:
    """What ReFTs must agree in to run as one."""
    unit = module.prefix or module.suffix
    assert unit is not None
    return (
        module.first,
        module.last,
        module.prefix is None,
        module.suffix is None,
        unit.act,
        unit.subtract,
        unit.dropout,
        unit.projection.dtype,
    )


class MixedReft(Operation):
    """Runs of rows, each through one ReFT, or through none.

    Args:
        modules: of one make; ranks may differ.
        batch: which row takes which; the number after the last stands for none.
    """

    needs_residual = True

    def __init__(self, modules: Sequence[Reft], batch: Numbered) -> None:
        self.modules, self.batch = list(modules), batch
        model = self.modules[0]
        units: dict[Intervention | None, list[Intervention | None]] = {
            model.prefix: [module.prefix for module in modules],
            model.suffix: [module.suffix for module in modules],
        }
        #: intervention of the first module → the weights of this intervention of all of them
        self.stacked = {
            first: Kept([unit for unit in mine if unit is not None], partial(_stack, mine))
            for first, mine in units.items()
            if first is not None
        }

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        return self.modules[0].changed(value, beside, self._change)

    def _change(self, first: Intervention, hidden: Tensor) -> Tensor:
        """What is added to `hidden` [B, n, d], to each row by the intervention it takes."""
        rows = self.batch.rows(hidden.shape[0], hidden.device)
        source, bias, projection = (part.index_select(0, rows) for part in self.stacked[first].get())
        value = hidden.to(projection.dtype)
        target = torch.baddbmm(bias, value, source.transpose(1, 2))
        if first.act is not None:
            target = first.act(target)
        if first.subtract:
            target = target - torch.bmm(value, projection.transpose(1, 2))
        if first.dropout and first.training:
            target = F.dropout(target, first.dropout)
        return torch.bmm(target, projection).to(hidden.dtype)


def _stack(units: Sequence[Intervention | None]) -> tuple[Tensor, Tensor, Tensor]:
    """W [N + 1, r, d], b [N + 1, 1, r] and P [N + 1, r, d], those of smaller rank filled up with 0; the last is 0."""
    made = [unit for unit in units if unit is not None]
    rank = max(unit.projection.shape[0] for unit in made)
    sources: list[Tensor] = []
    biases: list[Tensor] = []
    projections: list[Tensor] = []
    for unit in made:
        missing = rank - unit.projection.shape[0]
        bias = unit.source.bias
        assert bias is not None
        sources.append(F.pad(unit.source.weight, (0, 0, 0, missing)))
        biases.append(F.pad(bias, (0, missing)).unsqueeze(0))
        projections.append(F.pad(unit.rows(), (0, 0, 0, missing)))
    return _with_nothing(sources), _with_nothing(biases), _with_nothing(projections)


def _with_nothing(parts: list[Tensor]) -> Tensor:
    return torch.stack([*parts, torch.zeros_like(parts[0])])
