"""The bank: weights of many bottlenecks of one site as stacked tensors, so that a batch with a different adapter in every row,
and attention over many adapters, take two batched products whatever their number.

Adapters keep parameters of their own (optimisers, checkpoints and wrappers see nothing special); the bank copies those of
adapters that run together on first use, and again when one of them changed. Idle adapters cost nothing here. Where gradients
are needed nothing is kept: stacking is then part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.methods.linear import Linear

__all__ = ["Stacked", "stack"]


@dataclass(slots=True)
class Stacked:
    """Weights of N bottlenecks, those of the smaller ones filled up with 0: [N, d, r], [N, 1, r], [N, r, d], [N, 1, d], and
    norms [N, 1, d] and gates [N, d, 1], [N, 1, 1] where the adapters have them. Scaling is part of `up` and `up_bias`."""

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    norm_before: tuple[Tensor, Tensor] | None
    norm_after: tuple[Tensor, Tensor] | None
    gate: tuple[Tensor, Tensor] | None

    def rows(self, index: Tensor) -> Stacked:
        """The weights of the adapter of each row."""

        def pick(value: Tensor) -> Tensor:
            return value.index_select(0, index)

        def pair(value: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
            return None if value is None else (pick(value[0]), pick(value[1]))

        return Stacked(
            pick(self.down),
            pick(self.down_bias),
            pick(self.up),
            pick(self.up_bias),
            pair(self.norm_before),
            pair(self.norm_after),
            pair(self.gate),
        )


def matrices(module: Bottleneck) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(down [d, r], its bias [r], up [r, d], its bias [d]) with scaling in the last two."""
    down, up = module.down, module.up
    first = down.weight.t() if isinstance(down, Linear) else down.matrix()
    second = up.weight.t() if isinstance(up, Linear) else up.matrix()
    first_bias = first.new_zeros(first.shape[1]) if down.bias is None else down.bias
    second_bias = second.new_zeros(second.shape[1]) if up.bias is None else up.bias
    if isinstance(module.scaling, nn.Parameter) or module.scaling != 1.0:
        second, second_bias = second * module.scaling, second_bias * module.scaling
    return first, first_bias, second, second_bias


def stack(modules: Sequence[Bottleneck], *, bare: bool = False) -> Stacked:
    """The stacked weights of bottlenecks that agree in all but their sizes.

    Args:
        modules: at least one.
        bare: append one that computes 0.
    """
    parts = [matrices(module) for module in modules]
    size = max(part[0].shape[1] for part in parts)

    def filled(value: Tensor, axis: int) -> Tensor:
        short = size - value.shape[axis]
        if not short:
            return value
        shape = list(value.shape)
        shape[axis] = short
        return torch.cat([value, value.new_zeros(shape)], axis)

    columns = [
        [filled(part[0], 1) for part in parts],
        [filled(part[1], 0).unsqueeze(0) for part in parts],
        [filled(part[2], 0) for part in parts],
        [part[3].unsqueeze(0) for part in parts],
    ]
    if bare:
        columns = [[*column, torch.zeros_like(column[0])] for column in columns]
    down, down_bias, up, up_bias = (torch.stack(column) for column in columns)
    return Stacked(
        down,
        down_bias,
        up,
        up_bias,
        _norms(modules, "norm_before", bare),
        _norms(modules, "norm_after", bare),
        _gates(modules, bare),
    )


def _norms(modules: Sequence[Bottleneck], name: str, bare: bool) -> tuple[Tensor, Tensor] | None:
    norms = [getattr(module, name) for module in modules]
    if norms[0] is None:
        return None
    weights = [norm.weight.unsqueeze(0) for norm in norms]
    biases = [norm.bias.unsqueeze(0) for norm in norms]
    if bare:
        weights.append(torch.zeros_like(weights[0]))
        biases.append(torch.zeros_like(biases[0]))
    return torch.stack(weights), torch.stack(biases)


def _gates(modules: Sequence[Bottleneck], bare: bool) -> tuple[Tensor, Tensor] | None:
    gates = [module.gate for module in modules if module.gate is not None]
    if not gates:
        return None
    weights = [gate.weight.t() for gate in gates]
    biases = [gate.bias.unsqueeze(0) for gate in gates if gate.bias is not None]
    if bare:
        weights.append(torch.zeros_like(weights[0]))
        biases.append(torch.zeros_like(biases[0]))
    return torch.stack(weights), torch.stack(biases)
