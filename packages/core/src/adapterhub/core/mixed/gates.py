"""Gates of different adapters in the rows of one batch (Mao et al., 2022): mean over tokens of sigmoid(W_g x + b_g)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from adapterhub.core.kept import Kept
from adapterhub.core.methods.linear import Linear
from adapterhub.core.runs import Numbered

__all__ = ["RowGates"]


class RowGates:
    """The gate of each row; 1 for rows whose adapter has none.

    Args:
        gates: those of the adapters, [1 | n, in] each; one of [1, in] stands for n alike.
        batch: which row takes which; the number after the last stands for none.
    """

    def __init__(self, gates: Sequence[Linear | None], batch: Numbered) -> None:
        self.gates, self.batch = list(gates), batch
        self.stacked = Kept([gate for gate in gates if gate is not None], partial(self._stack, self.gates))

    @classmethod
    def of(cls, gates: Sequence[Linear | None], batch: Numbered) -> RowGates | None:
        """None where no adapter has one."""
        return None if all(gate is None for gate in gates) else cls(gates, batch)

    def __call__(self, read: Tensor) -> Tensor:
        """Of what the gates read [B, …, T, in], the gate of each row: [B, …, 1, n]."""
        rows = self.batch.rows(read.shape[0], read.device)
        weight, bias, there = (part.index_select(0, rows) for part in self.stacked.get())
        flat = read.reshape(read.shape[0], -1, read.shape[-1])
        if flat.dtype != weight.dtype and not torch.is_autocast_enabled(read.device.type):
            flat = flat.to(weight.dtype)
        gate = torch.sigmoid(torch.baddbmm(bias, flat, weight)).view(*read.shape[:-1], weight.shape[-1])
        gate = gate.mean(dim=-2, keepdim=True) if read.dim() > 2 else gate
        return torch.where(there.view(-1, *[1] * (gate.dim() - 1)), gate, gate.new_ones(()))

    @staticmethod
    def _stack(gates: Sequence[Linear | None]) -> tuple[Tensor, Tensor, Tensor]:
        """W_g [N + 1, in, n], b_g [N + 1, 1, n], and whether there is one [N + 1]."""
        made = [gate for gate in gates if gate is not None]
        width = max(gate.weight.shape[0] for gate in made)
        like = made[0].weight
        weights, biases = [], []
        for gate in (*gates, None):
            if gate is None:
                weights.append(like.new_zeros(like.shape[1], width))
                biases.append(like.new_zeros(1, width))
                continue
            bias = like.new_zeros(gate.weight.shape[0]) if gate.bias is None else gate.bias
            weights.append(gate.weight.t().expand(-1, width))
            biases.append(bias.expand(width).unsqueeze(0))
        there = torch.tensor([gate is not None for gate in (*gates, None)], device=like.device)
        return torch.stack(weights), torch.stack(biases), there
