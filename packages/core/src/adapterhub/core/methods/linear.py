"""A linear map without the machinery of `nn.Linear`: two parameters from a source."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.parameters import Draw, Source, zeros

__all__ = ["Linear", "Norm"]


class Linear(nn.Module):
    """y = W x + b.

    Args:
        inputs, outputs: sizes; weight is [outputs, inputs], bias [outputs].
        source: where the parameters come from.
        draw: how a new weight is drawn; a new bias is 0.
        bias: whether there is one.
    """

    def __init__(self, inputs: int, outputs: int, source: Source, draw: Draw, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = source("weight", (outputs, inputs), draw)
        self.bias = source("bias", (outputs,), zeros) if bias else None

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight, self.bias)


class Norm(nn.Module):
    """Layer normalisation (Ba et al., 2016) over the last axis, with weight and bias [width]; epsilon 1e-5."""

    def __init__(self, width: int, source: Source) -> None:
        from adapterhub.core.methods.parameters import ones

        super().__init__()
        self.weight = source("weight", (width,), ones)
        self.bias = source("bias", (width,), zeros)

    def forward(self, value: Tensor) -> Tensor:
        return F.layer_norm(value, self.weight.shape, self.weight, self.bias)
