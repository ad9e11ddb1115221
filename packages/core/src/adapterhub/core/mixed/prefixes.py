"""A different prefix in every row of the batch, at one attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import Kept
from adapterhub.core.methods.prefix import Prefix
from adapterhub.core.mixed.gates import RowGates
from adapterhub.core.operations import Operation
from adapterhub.core.runs import Numbered, numbered

__all__ = ["MixedPrefixes", "mixed_prefixes"]


def mixed_prefixes(
    modules: Sequence[nn.Module | None], counts: Sequence[int] | None, *, expand: bool
) -> Operation | None:
    """The operation for runs of rows, as `several.by_make` has it; None where there are modules of other methods."""
    present, batch = numbered(modules, counts, expand=expand)
    prefixes = [module for module in present if isinstance(module, Prefix)]
    return MixedPrefixes(prefixes, batch) if prefixes and len(prefixes) == len(present) else None


class MixedPrefixes(Operation):
    """Runs of rows, each with one prefix in front of the prefixes before it, or with none; some may have gates.

    Args:
        modules: each with its network.
        batch: which row takes which; the number after the last stands for none.
    """

    needs_residual = True

    def __init__(self, modules: Sequence[Prefix], batch: Numbered) -> None:
        self.moves_text = all(module.moves_text for module in modules)
        self.modules, self.batch = list(modules), batch
        self.stacked = Kept(
            [part for module in modules for part in (module, module.network)], partial(self._stack, self.modules)
        )
        self.gates = RowGates.of([module.gate for module in modules], batch)

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        changes = any(module.drops and module.network.training for module in self.modules)
        stacked = self._stack(self.modules) if changes else self.stacked.get()
        tokens = stacked.index_select(0, self.batch.rows(value.shape[0], value.device))
        tokens = tokens.to(value.dtype)
        if self.gates is not None:
            assert beside is not None
            size = self.modules[0].network.size
            gate = self.gates(beside).to(value.dtype)
            keys, values, there = tokens.split((size, size, 1), -1)
            tokens = torch.cat((keys * gate[..., :1], values * gate[..., -1:], there), -1)
        return torch.cat((tokens, value), 1) if value.shape[1] else tokens

    @staticmethod
    def _stack(modules: Sequence[Prefix]) -> Tensor:
        """[N + 1, P, 2 k + 1]: shorter prefixes begin with zeros, tokens that are not there; the last has no others."""
        parts = [module.tokens() for module in modules]
        length = max(part.shape[0] for part in parts)
        parts = [F.pad(part, (0, 0, length - part.shape[0], 0)) for part in parts]
        return torch.stack([*parts, torch.zeros_like(parts[0])])
