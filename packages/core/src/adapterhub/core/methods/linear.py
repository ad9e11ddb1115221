"""A linear map without the machinery of `nn.Linear`: two parameters from a source."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.parameters import Draw, Source, ones, zeros
from adapterhub.core.slim import Slim

__all__ = ["Linear", "Norm"]


class Linear(Slim):
    """y = W x + b.

    Args:
        inputs, outputs: sizes; weight is [outputs, inputs], bias [outputs].
        source: where the parameters come from.
        draw: how a new weight is drawn; a new bias is 0.
        bias: whether there is one.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, source: Source, draw: Draw, *, bias: bool = True) -> None:
        super().__init__()
        self._parameters["weight"] = source("weight", (outputs, inputs), draw)
        self._parameters["bias"] = source("bias", (outputs,), zeros) if bias else None

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight, self.bias)


class Norm(Slim):
    """Layer normalisation (Ba et al., 2016) over the last axis, with weight and bias [width]; epsilon 1e-5."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, width: int, source: Source) -> None:
        super().__init__()
        self._parameters["weight"] = source("weight", (width,), ones)
        self._parameters["bias"] = source("bias", (width,), zeros)

    def forward(self, value: Tensor) -> Tensor:
        return F.layer_norm(value, self.weight.shape, self.weight, self.bias)
