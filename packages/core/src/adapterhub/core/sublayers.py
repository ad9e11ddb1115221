"""One bottleneck at one sublayer, as an operation: the usual make runs straight from its tables of parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.operations import Operation

__all__ = ["AtSublayer"]


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
